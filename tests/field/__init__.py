"""What users of other nodes reported in public, tried on this one: a file for each kind of report."""
