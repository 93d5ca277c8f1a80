"""Drop-in layers; they need torch (and triton on a GPU) only.

Recurrent layers map ``[B, T, D]`` to ``[B, T, D']`` as ``y, state = layer(x, state=None)``, decode one token
by ``y, state = layer.step(x, state)`` with ``x`` ``[B, D]``, and start from ``layer.init_state(batch)``.

The parts of the field model learn by local rules: methods that end in ``learn_`` change buffers in place, and
nothing has a gradient.
"""

from .aperiodic import AperiodicRNN
from .causal_conv import CausalConv1d
from .coherence import window_coherence
from .contexts import ContextPhases
from .crystal import CrystalMemory
from .evolution import FieldEvolution
from .golden import GoldenEmbedding, golden_frequencies, hebbian_amplification, phase_harmonics
from .gravity import GravityMemory
from .inertia import ThermodynamicInertiaLoss
from .local import HebbianCrystal, LocalReadout
from .lru import AperiodicLRU
from .mamba import Mamba
from .mamba2 import Mamba2
from .mixture import BornMixture
from .perturbation import PerturbationSchedule, beta_times, levy_stable, perturb
from .sites import SiteTable
from .ssm import SSMState

__all__ = [
    "AperiodicLRU",
    "AperiodicRNN",
    "BornMixture",
    "CausalConv1d",
    "ContextPhases",
    "CrystalMemory",
    "FieldEvolution",
    "GoldenEmbedding",
    "GravityMemory",
    "HebbianCrystal",
    "LocalReadout",
    "Mamba",
    "Mamba2",
    "PerturbationSchedule",
    "SSMState",
    "SiteTable",
    "ThermodynamicInertiaLoss",
    "beta_times",
    "golden_frequencies",
    "hebbian_amplification",
    "levy_stable",
    "perturb",
    "phase_harmonics",
    "window_coherence",
]
