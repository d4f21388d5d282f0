"""PALM's headline on rewards that can be traded: few members, worst case, certificate."""
