"""What programs ask of the running node: whether it lives, whether it is ready, and its figures for Prometheus."""
