"""`python -m sparse_backend compare script.py`: an unmodified script, stock and accelerated, side by side.

cli runs the variants one after the other, child is such a run, probe measures in it, results holds what was
measured, table and plot show it.
"""
