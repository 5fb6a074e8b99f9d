"""Paired measurements of stock and accelerated training steps; README.md says how to run them."""

import os

# Read when torch is imported: its profiler writes lines of its own to stderr at every start.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
