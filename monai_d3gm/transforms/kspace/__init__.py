"""Transforms of k-space: functions, array transforms and dictionary transforms (names ending in d)."""
