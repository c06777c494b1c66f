"""A rehearsal of everything between the node and one peer, with test images instead of a patient's."""
