"""What soups and logit mixing give users between two members, without training."""
