"""Phase, oscillator, state-space and Hebbian sequence models, fast anywhere.

``phasefield.layers`` holds drop-in modules, ``phasefield.models`` whole models, and the commands
``phasefield train | evaluate | generate | chat | compare | doctor`` run them. The kernels below all of it
are the package :mod:`phasefield_kernels`.
"""

__version__ = "0.1.0"
