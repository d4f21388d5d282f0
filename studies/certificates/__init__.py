"""How often the bounds of a certificate hold, in worlds whose truth is known and where failures are rare."""
