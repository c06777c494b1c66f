"""The first two minutes of a new user: a PACS double and a tour of the samples."""
