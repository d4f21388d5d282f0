"""What the members of a portfolio are worth under every reward head."""
