"""Operators on whole sequences: contract, implementations and the Python entry `run_layer`."""
