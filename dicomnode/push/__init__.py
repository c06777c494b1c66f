"""Delivery: one loop for each peer sends derived instances and records each answer in the ledger."""
