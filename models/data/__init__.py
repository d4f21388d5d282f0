"""Texts, comparisons and the trunk that turns texts into vectors; knows nothing of training."""
