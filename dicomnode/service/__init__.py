"""The running node: its parts, started in the order of their dependence and stopped in reverse order."""
