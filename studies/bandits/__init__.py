"""Routing by posterior sampling against bandits that start anew with each user."""
