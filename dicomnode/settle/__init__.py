"""A quiet series is settled, judged, and then kept or planned."""
