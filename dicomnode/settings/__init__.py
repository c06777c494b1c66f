"""Settings: every key, the match language of the rules, and the code that reads both."""
