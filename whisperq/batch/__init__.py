"""Whole lists of recordings transcribed, resumably."""
