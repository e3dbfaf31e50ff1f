"""Data sets of training items."""
