"""Run the command line as ``python -m slslib``, or by ``accelerate launch -m slslib``."""

from slslib.cli import main

main()
