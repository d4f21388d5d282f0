"""State of every user in Redis: one sum of evidence per basis, the events that made it, and decisions that wait for feedback."""
