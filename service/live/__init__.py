"""What the process serves with: the loaded bundle and its members, what outlives them, and how they are swapped."""
