"""`python -m tailrisk.cli`."""

from . import main

main()
