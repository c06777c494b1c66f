"""The judging of models: how near each comes to the truth, in figures, reports and pictures."""
