"""Drop-in layers; they need torch (and triton on a GPU) only.

Every layer maps ``[B, T, D]`` to ``[B, T, D']`` as ``y, state = layer(x, state=None)``, decodes one token by
``y, state = layer.step(x, state)`` with ``x`` ``[B, D]``, and starts from ``layer.init_state(batch)``.
"""

from .aperiodic import AperiodicRNN
from .inertia import ThermodynamicInertiaLoss
from .linear_cross_entropy import linear_cross_entropy
from .lru import AperiodicLRU

__all__ = ["AperiodicLRU", "AperiodicRNN", "ThermodynamicInertiaLoss", "linear_cross_entropy"]
