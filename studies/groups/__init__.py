"""Two to eight groups of opposed tastes."""
