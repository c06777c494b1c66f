"""Alerts: find what is wrong, send it by mail or webhook, and write the weekly letter."""
