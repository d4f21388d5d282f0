"""How well each family predicts people it has not seen, comparison by comparison."""
