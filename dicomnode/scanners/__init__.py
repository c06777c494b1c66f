"""The fitness of scanners, from the verdicts: the facts of one series, and the changes of a protocol over weeks."""
