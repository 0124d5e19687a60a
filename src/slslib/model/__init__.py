"""The detector: XLS-R's layers, the SLS head, their checkpoints and other formats of them."""
