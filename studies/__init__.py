"""Measurements of papers and of the demo, one folder each."""
