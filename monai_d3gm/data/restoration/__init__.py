"""Data sets of inputs to restore, and what their restoration gives."""
