"""MiniSpoof, the embedded simulated corpus: a separate program that uses slslib for data only."""
