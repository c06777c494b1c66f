"""Training and evaluation; stands on the library half of dicomnode and is never imported by it."""
