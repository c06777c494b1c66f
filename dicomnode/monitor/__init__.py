"""Answers for monitoring programs: whether the node lives, whether it is ready, and its figures for Prometheus."""
