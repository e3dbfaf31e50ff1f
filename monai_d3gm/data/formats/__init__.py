"""Formats of files, one module each: recognised, read and written."""
