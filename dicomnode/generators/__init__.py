"""Generators: thick stacks in, thin stacks out."""
