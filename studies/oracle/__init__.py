"""Lazy search with an exact oracle: promise against truth."""
