"""How little data is enough: every family and every simple head on real sets cut to some hundred comparisons."""
