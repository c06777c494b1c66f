"""How near a model comes to the truth, for programs, for people, and by people."""
