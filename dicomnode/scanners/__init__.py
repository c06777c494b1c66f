"""What verdicts tell of the scanners: the facts of one series, and what changed in a protocol over the weeks."""
