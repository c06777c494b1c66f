"""Settings: every key, the match language of the rules, and how both are read."""
