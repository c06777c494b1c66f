"""How near a model comes to the truth, in figures, reports and pictures."""
