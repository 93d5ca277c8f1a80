"""What a field model is made of."""

from dataclasses import dataclass
from typing import Literal

import torch

from ...layers.contexts import LONGEST
from ...layers.golden import Embedding
from ...layers.perturbation import PerturbationSchedule

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class FieldConfig:
    """The model's memories; the defaults are the base size.

    Raises:
        ValueError: a value out of range.
    """

    vocab_size: int
    """symbols of the tokenizer"""
    contexts: str = "0 1 2 3 4 5 6 8 w w1 w2 ws"
    """what the crystal remembers by: the last n tokens, the word so far (w), with earlier (w1, w2, ws)"""
    sites: int = 2**22
    """sites of each of the crystal's two tables, a power of two"""
    state_dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    """of the crystal's amplitudes; in 16 bits they are rounded stochastically"""
    horizon: int = 512
    """how many of the last tokens pull by gravity; 0 = no gravity"""
    orders: int = 5
    """tokens of context in a particle's place"""
    order_width: int = 32
    """width of one order's golden code"""
    embedding: Embedding = "golden"
    """code of contexts as places: golden, log_phase (its symmetric logarithm), cone (3 dimensions)"""
    surprise_mass: bool = True
    """a token's mass is the crystal's surprise at it; 1 if off"""
    fast_weights: bool = False
    """a Hebbian matrix memory of each sequence, besides gravity"""
    fast_rule: Literal["hebb", "delta"] = "hebb"
    """of the fast weights"""
    matrix_rule: Literal["none", "hebb", "delta", "oja"] = "none"
    """of a dense crystal W: states ψ + Wψ of the last tokens are read out as one more predictor"""
    coherence_gate: bool = True
    """let the mixture's weights depend on the coherence of the field's last five states"""
    perturbation_schedule: str = "{}"
    """perturbations of the field in training, by step: '{"0": "beta", "10000": "adaptive"}'"""
    perturbation_scale: float = 0.01
    """of the perturbations"""

    def __post_init__(self) -> None:
        allowed = {
            "sites": (self.sites >= 16 and not self.sites & (self.sites - 1), "a power of two, at least 16"),
            "horizon": (self.horizon >= 0, "at least 0 (0 = no gravity)"),
            "orders": (1 <= self.orders <= LONGEST, f"from 1 to {LONGEST}"),
            "order_width": (self.order_width >= 2 and self.order_width % 2 == 0, "even, at least 2"),
            "state_dtype": (self.state_dtype in DTYPES, "fp32, bf16 or fp16"),
            "perturbation_scale": (0 < self.perturbation_scale <= 1, "above 0 and at most 1"),
            "contexts": (self.contexts.split()[:1] == ["0"], "names that begin with 0, the empty context"),
        }
        for name, (holds, what) in allowed.items():
            if not holds:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be {what}.")
        PerturbationSchedule.parse(self.perturbation_schedule)
        if self.vocab_size > 1024 and (self.horizon or self.fast_weights):
            raise ValueError(
                f"vocab_size is {self.vocab_size}; the memories of a sequence hold one-hot codes of at most "
                "1024 tokens: give horizon 0 and no fast_weights."
            )
