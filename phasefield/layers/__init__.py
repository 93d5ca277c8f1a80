"""Drop-in layers; they need torch (and triton on a GPU) only.

A recurrent layer maps ``[B, T, D]`` to ``[B, T, D']`` as ``y, state = layer(x, state=None)``, decodes one
token by ``y, state = layer.step(x, state)`` with ``x`` ``[B, D]``, and starts from
``layer.init_state(batch)``. Layers of complex numbers (Phase…) map ``[…, D, 2]``, real and imaginary part
last, and keep no state.
"""

from .aperiodic import AperiodicRNN
from .causal_conv import CausalConv1d
from .cayley import CayleyRotation, cayley
from .inertia import ThermodynamicInertiaLoss
from .linear_cross_entropy import linear_cross_entropy
from .lru import AperiodicLRU
from .mamba import Mamba
from .mamba2 import Mamba2
from .morphology import MorphologicalEmbedding, MorphologicalHeads
from .phase import PhaseEmbedding, PhaseLinear, phase_coherence, phase_product
from .phase_dropout import PhaseDropout
from .phase_gate import PhaseGLU, phase_gate
from .phase_norm import ModReLU, PhaseRMSNorm
from .ssm import SSMState

__all__ = [
    "AperiodicLRU",
    "AperiodicRNN",
    "CausalConv1d",
    "CayleyRotation",
    "Mamba",
    "Mamba2",
    "ModReLU",
    "MorphologicalEmbedding",
    "MorphologicalHeads",
    "PhaseDropout",
    "PhaseEmbedding",
    "PhaseGLU",
    "PhaseLinear",
    "PhaseRMSNorm",
    "SSMState",
    "ThermodynamicInertiaLoss",
    "cayley",
    "linear_cross_entropy",
    "phase_coherence",
    "phase_gate",
    "phase_product",
]
