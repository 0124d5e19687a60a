"""MiniSpoof, the embedded simulated corpus: a program of its own that only slslib.data serves."""
