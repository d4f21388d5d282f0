"""The demo's members against models that are aligned to one user alone."""
