"""What builds on a detector: a threshold, explanations, publication, a benchmark, a page."""
