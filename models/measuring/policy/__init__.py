"""What other routing policies would have been worth, from a log with propensities."""
