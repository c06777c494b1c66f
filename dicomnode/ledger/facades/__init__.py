"""The facades of the ledger, one file for each part of the node: every method is one transaction, or one read."""
