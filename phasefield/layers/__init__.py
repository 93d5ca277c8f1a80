"""Drop-in layers; they need torch (and triton on a GPU) only.

Every layer maps ``[B, T, D]`` to ``[B, T, D']`` as ``y, state = layer(x, state=None)``, decodes one token by
``y, state = layer.step(x, state)`` with ``x`` ``[B, D]``, and starts from ``layer.init_state(batch)``.
"""

from .aperiodic import AperiodicRNN
from .causal_conv import CausalConv1d
from .inertia import ThermodynamicInertiaLoss
from .lru import AperiodicLRU
from .mamba import Mamba
from .mamba2 import Mamba2
from .ssm import SSMState

__all__ = [
    "AperiodicLRU",
    "AperiodicRNN",
    "CausalConv1d",
    "Mamba",
    "Mamba2",
    "SSMState",
    "ThermodynamicInertiaLoss",
]
