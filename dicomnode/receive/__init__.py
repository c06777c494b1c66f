"""Receiving: accept associations, and check, store and acknowledge instances."""
