"""Readers of the public sets that families are measured on."""
