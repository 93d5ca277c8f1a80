"""``python -m phasefield`` is ``phasefield``."""

from .cli import main

main()
