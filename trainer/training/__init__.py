"""A recipe and studies become a plan, the plan becomes weights, the weights a model directory."""
