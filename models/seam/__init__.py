"""What training and serving share: pure numpy functions and the bundle directory.

`models` writes bundles and trains against these functions; `service` reads bundles and calls the same functions, so a
number in a report is what a user gets. Only numpy, tokenizers and the standard library are imported here.
"""
