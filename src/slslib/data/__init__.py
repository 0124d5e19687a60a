"""Recordings, protocols and score files: all that is read before a model runs. No PyTorch."""
