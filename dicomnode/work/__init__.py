"""Work: a leased job becomes derived files, in a process of its own that may die without harm to the rest."""
