"""Drop-in layers; they need torch (and triton on a GPU) only.

A recurrent layer maps ``[B, T, D]`` to ``[B, T, D']`` as ``y, state = layer(x, state=None)``, decodes one
token by ``y, state = layer.step(x, state)`` with ``x`` ``[B, D]``, and starts from
``layer.init_state(batch)``. Layers of complex numbers (Phase…) map ``[…, D, 2]``, real and imaginary part
last, and keep no state.

The parts of the field model learn by local rules: methods that end in ``learn_`` change buffers in place, and
nothing has a gradient.
"""

from .aperiodic import AperiodicRNN
from .causal_conv import CausalConv1d
from .cayley import CayleyRotation, cayley
from .coherence import window_coherence
from .contexts import ContextPhases
from .crystal import CrystalMemory
from .evolution import FieldEvolution
from .golden import GoldenEmbedding, golden_frequencies, hebbian_amplification, phase_code, phase_harmonics
from .gravity import GravityMemory
from .inertia import ThermodynamicInertiaLoss
from .linear_cross_entropy import linear_cross_entropy
from .local import HebbianCrystal, LocalReadout
from .lru import AperiodicLRU
from .mamba import Mamba
from .mamba2 import Mamba2
from .mixture import BornMixture
from .morphology import MorphologicalEmbedding, MorphologicalHeads
from .perturbation import PerturbationSchedule, beta_times, levy_stable, perturb
from .phase import PhaseEmbedding, PhaseLinear, phase_coherence, phase_product
from .phase_dropout import PhaseDropout
from .phase_gate import PhaseGLU, phase_gate
from .phase_norm import ModReLU, PhaseRMSNorm
from .sites import SiteTable
from .ssm import SSMState
from .state_readout import StateReadout

__all__ = [
    "AperiodicLRU",
    "AperiodicRNN",
    "BornMixture",
    "CausalConv1d",
    "CayleyRotation",
    "ContextPhases",
    "CrystalMemory",
    "FieldEvolution",
    "GoldenEmbedding",
    "GravityMemory",
    "HebbianCrystal",
    "LocalReadout",
    "Mamba",
    "Mamba2",
    "ModReLU",
    "MorphologicalEmbedding",
    "MorphologicalHeads",
    "PerturbationSchedule",
    "PhaseDropout",
    "PhaseEmbedding",
    "PhaseGLU",
    "PhaseLinear",
    "PhaseRMSNorm",
    "SSMState",
    "SiteTable",
    "StateReadout",
    "ThermodynamicInertiaLoss",
    "beta_times",
    "cayley",
    "golden_frequencies",
    "hebbian_amplification",
    "levy_stable",
    "linear_cross_entropy",
    "perturb",
    "phase_code",
    "phase_coherence",
    "phase_gate",
    "phase_harmonics",
    "phase_product",
    "window_coherence",
]
