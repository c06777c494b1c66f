"""Studies fetched from a peer: counted before and after, brought to the node's own door, marked as pulled."""
