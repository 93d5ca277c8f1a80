"""What tests of the Hebbian scans share: forms, random arguments, tolerances."""

import itertools
import math

import torch

from phasefield_kernels import (
    hebbian_scan,
    hebbian_scan_step,
    hebbian_scan_step_,
    phase_hebbian_scan,
    phase_hebbian_scan_step,
    phase_hebbian_scan_step_,
)

BACKENDS = ("torch", "native", "triton")
OPS = {
    False: (hebbian_scan, hebbian_scan_step, hebbian_scan_step_),
    True: (phase_hebbian_scan, phase_hebbian_scan_step, phase_hebbian_scan_step_),
}
FORMS = list(itertools.product((False, True), ("hebb", "delta")))
EVERYWHERE = [(backend, *form) for backend in BACKENDS for form in FORMS]
ROUNDING = {torch.float32: 2**-24, torch.bfloat16: 2**-9, torch.float16: 2**-12}


def draw(batch, length, heads, columns, rows, is_complex, decay="token", beta=True, sequences=None, seed=0):
    """Arguments by name, in the op's order without the rule; keys of length 1."""
    generator = torch.Generator().manual_seed(seed)
    pair = (2,) if is_complex else ()

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    def uniform(*shape):
        return torch.rand(*shape, generator=generator)

    k = random(batch, length, heads, columns, *pair)
    k = k / k.flatten(3).norm(dim=-1)[(..., *(None,) * (1 + is_complex))].clamp(min=1e-6)
    return {
        "q": random(batch, length, heads, columns, *pair),
        "k": k,
        "v": random(batch, length, heads, rows, *pair),
        "log_decay": {
            None: None,
            "head": -0.2 * uniform(heads),
            "token": -0.2 * uniform(batch, length, heads),
        }[decay],
        "beta": uniform(batch, length, heads) if beta else None,
        "initial_state": random(sequences or batch, heads, rows, columns, *pair),
    }


def at(tensors, piece):
    """The arguments of some time steps, without the state."""
    tokens = {
        name: t if t is None or t.ndim < 3 else t[:, piece]
        for name, t in tensors.items()
        if name != "initial_state"
    }
    return tokens


def tolerances(dtype, columns, length):
    """Allowed errors, relative to the largest value.

    In float32 a sum over K products and T steps: 4 roundings each, adding like square roots. With 16-bit
    inputs every tile that is multiplied (states, scores, what is written) is rounded to their dtype, about
    four one after the other in the forward and twice as many in the backward; 4 covers the largest of
    thousands. The torch form multiplies in float32 and rounds only what it returns.
    """
    single = 16 * 2**-24 * math.sqrt(columns + length)
    half = ROUNDING[dtype] if dtype != torch.float32 else 0.0
    return {"out0": single + 16 * half, "out1": single + 16 * half, "default": 4 * single + 32 * half}
