"""What `dicomnode check` says before the first image comes, one file for each matter; a start asks the same."""
