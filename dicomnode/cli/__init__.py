"""The commands. Each file parses its arguments, calls one room, and prints the result."""
