"""The data folder: instances as they came, the quarantine, and the outputs of jobs."""
