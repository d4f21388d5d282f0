"""One page: two answers whose authors are hidden, a choice, and the user's weights moving. No script or style from elsewhere."""
