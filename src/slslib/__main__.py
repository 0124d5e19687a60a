"""``python -m slslib``: the command line, also for ``accelerate launch -m slslib``."""

from slslib.cli import main

main()
