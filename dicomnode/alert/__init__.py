"""Alerts: what is wrong, who is told of it by which way, and the weekly letter."""
