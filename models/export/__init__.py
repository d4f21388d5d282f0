"""From trained heads to the bundle that the service loads: one graph, its probes, and the packing."""
