"""Delivery: one loop for each peer, derived instances → PACS, acknowledged in the ledger one by one."""
