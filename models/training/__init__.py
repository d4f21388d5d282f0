"""Trainers of reward heads on cached trunk vectors: comparisons in, a trained family out."""
