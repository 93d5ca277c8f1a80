"""hebbian_scan, Hebb's rule and the delta rule, against loops and transformers' chunked delta rule."""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from phasefield_kernels import hebbian_scan, hebbian_scan_step_

from .entries import entries
from .operation import FORWARD, TRAINING, Inputs, Operation, Peer, Shape, Work
from .peers.gpu import FLA_DELTA, FLA_GLA
from .peers.hugging_face import DELTA_RULE
from .peers.layouts import wide

TOKENS = ("q", "k", "v", "log_decay", "beta")


def inputs(shape: Shape, dtype: torch.dtype) -> Inputs:
    B, T, H, K = (shape[name] for name in "BTHK")
    q, k, v = (torch.randn(B, T, H, K) for _ in range(3))
    return {
        "q": q.to(dtype),
        # A little shorter than 1, so that rounding to bfloat16 leaves it within what the delta rule allows.
        "k": (0.99 * F.normalize(k, dim=-1)).to(dtype),
        "v": v.to(dtype),
        "log_decay": (-0.1 * torch.rand(B, T, H)).to(dtype),
        "beta": torch.rand(B, T, H).to(dtype),
    }


def work(shape: Shape, *, delta: bool) -> Work:
    # Step by step, the least: decay, outer product and its sum, reading; the delta rule also reads a key.
    steps = shape["B"] * shape["T"] * shape["H"]
    return Work(flops=(7 if delta else 5) * steps * shape["K"] ** 2, special=steps, backward=2)


def update(
    state: Tensor, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, delta: bool
) -> Tensor:
    """One step: the next state ``[B, H, V, K]``."""
    state = log_decay.exp()[..., None, None] * state
    missing = v - (state @ k.unsqueeze(-1)).squeeze(-1) if delta else v
    return state + (beta.unsqueeze(-1) * missing).unsqueeze(-1) * k.unsqueeze(-2)


def loop(delta: bool, **inputs: Tensor) -> Tensor:
    q, k, v, log_decay, beta = (wide(inputs[name]).unbind(1) for name in TOKENS)
    state = q[0].new_zeros(*v[0].shape, k[0].shape[-1])
    outputs = []
    for t in range(len(q)):
        state = update(state, q[t], k[t], v[t], log_decay[t], beta[t], delta)
        outputs.append((state @ q[t].unsqueeze(-1)).squeeze(-1))
    return torch.stack(outputs, dim=1).to(inputs["q"].dtype)


def step(delta: bool, state: Tensor, **token: Tensor) -> Tensor:
    tokens = {name: wide(tensor) for name, tensor in token.items()}
    state.copy_(update(state, **tokens, delta=delta))
    return (state @ tokens["q"].unsqueeze(-1)).squeeze(-1).to(token["q"].dtype)


def operation(rule: str, *peers: Peer, **shapes: object) -> Operation:
    delta = rule == "delta"
    return Operation(
        name="hebbian_scan",
        variant=rule,
        call=partial(hebbian_scan, rule=rule),
        inputs=inputs,
        work=partial(work, delta=delta),
        small={"B": 2, "T": 21, "H": 3, "K": 5},
        shapes=({"B": 2, "T": 256, "H": 4, "K": 64}, {"B": 1, "T": 4096, "H": 4, "K": 64}),
        timed=TOKENS,
        state=lambda q, v, **_: (q.shape[0], *v.shape[2:], q.shape[3]),
        step=partial(hebbian_scan_step_, rule=rule),
        peers=(
            Peer("unbind loop", partial(loop, delta), longest={FORWARD: 4096, TRAINING: 4096}),
            *peers,
        ),
        step_peers=(Peer("eager step", partial(step, delta)),),
        **shapes,
    )


HEBB = operation(
    "hebb",
    FLA_GLA,
    further=({"B": 2, "T": 256, "H": 16, "K": 64}, {"B": 2, "T": 256, "H": 4, "K": 128}),
    scaling={"B": 1, "H": 2, "K": 32},
)
DELTA = operation("delta", DELTA_RULE, FLA_DELTA)


@entries(HEBB, DELTA)
def test_hebbian_scan(race, competitor, compete):
    compete(race, competitor)
