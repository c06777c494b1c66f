"""The lines of `dicomnode check`, one file for each matter; a start tests the same with the same functions."""
