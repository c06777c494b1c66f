"""Commands: each parses, calls one room, prints once."""
