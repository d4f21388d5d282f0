"""Alignment: the demo language model, its adapters, and preference optimisation of portfolio members."""
