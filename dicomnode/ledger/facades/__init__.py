"""The ledger as its users see it, one file for each: every method is one transaction, or one look."""
