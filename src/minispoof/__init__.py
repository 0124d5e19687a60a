"""MiniSpoof, the embedded simulated corpus: a separate program that builds on slslib.data alone."""
