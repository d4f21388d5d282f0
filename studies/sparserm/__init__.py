"""Directions of a sparse autoencoder against random ones and the dense state."""
