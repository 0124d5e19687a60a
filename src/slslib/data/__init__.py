"""Recordings, protocols and score files: everything that is read before a model runs. No torch."""
