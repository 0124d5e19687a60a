"""What the notebooks share and a detector does not need: their data and weights, and a baseline."""
