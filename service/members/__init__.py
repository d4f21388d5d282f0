"""The members of the portfolio: what writes the answers, on this machine or elsewhere, behind one protocol."""
