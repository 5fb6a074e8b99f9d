"""Paired measurements of stock and accelerated training steps; README.md says how to run them."""
