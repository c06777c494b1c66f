"""Receiving: which associations are accepted, how an instance is checked, stored and acknowledged."""
