"""Coverage of off-policy intervals on simulated logs."""
