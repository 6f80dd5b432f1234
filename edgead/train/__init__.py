"""Training: the loop, and features computed once."""
