"""Code that the notebooks share and a detector does not need: data, weights, and a baseline."""
