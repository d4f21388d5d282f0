"""Real language models as a portfolio for users who weigh correctness against length."""
