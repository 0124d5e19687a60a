"""From scores and a key to numbers, tables, figures and pages. No PyTorch."""
