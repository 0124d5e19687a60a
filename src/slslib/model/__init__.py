"""The detector: XLS-R's layers, the SLS head, their checkpoints, and what is compared with them."""
