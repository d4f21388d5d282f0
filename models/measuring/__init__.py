"""Measuring trained families with the functions that the server runs."""
