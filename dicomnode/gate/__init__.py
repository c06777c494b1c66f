"""The result gate: figures of a derived series and of its encoded files in, findings out."""
