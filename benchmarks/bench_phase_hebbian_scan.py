"""phase_hebbian_scan against a loop in complex numbers. No other package has a complex matrix memory."""

import torch
from torch import Tensor

from phasefield_kernels import phase_hebbian_scan, phase_hebbian_scan_step_

from .entries import entries
from .operation import FORWARD, TRAINING, Inputs, Operation, Peer, Shape, Work
from .peers.layouts import as_complex, as_pairs, wide

TOKENS = ("q", "k", "v", "log_decay", "beta")


def inputs(shape: Shape, dtype: torch.dtype) -> Inputs:
    B, T, H, K = (shape[name] for name in "BTHK")
    q, k, v = (torch.randn(B, T, H, K, 2) for _ in range(3))
    return {
        "q": q.to(dtype),
        "k": (k * (2 * K) ** -0.5).to(dtype),
        "v": v.to(dtype),
        "log_decay": (-0.1 * torch.rand(B, T, H)).to(dtype),
        "beta": torch.rand(B, T, H).to(dtype),
    }


def work(shape: Shape) -> Work:
    # Step by step, the least: decay (2), outer product and its sum (8), reading (8), of complex numbers.
    steps = shape["B"] * shape["T"] * shape["H"]
    return Work(flops=18 * steps * shape["K"] ** 2, special=steps, backward=2)


def update(state: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor) -> Tensor:
    """One step: the next state ``[B, H, V, K]``, complex."""
    decayed = log_decay.exp()[..., None, None] * state
    return decayed + (beta.unsqueeze(-1) * v).unsqueeze(-1) * k.conj().unsqueeze(-2)


def loop(**inputs: Tensor) -> Tensor:
    q, k, v = (as_complex(inputs[name]).unbind(1) for name in "qkv")
    log_decay, beta = (wide(inputs[name]).unbind(1) for name in ("log_decay", "beta"))
    state = q[0].new_zeros(*v[0].shape, k[0].shape[-1])
    outputs = []
    for t in range(len(q)):
        state = update(state, k[t], v[t], log_decay[t], beta[t])
        outputs.append((state @ q[t].unsqueeze(-1)).squeeze(-1))
    return as_pairs(torch.stack(outputs, dim=1), inputs["q"])


def step(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor) -> Tensor:
    memory = torch.view_as_complex(state)
    memory.copy_(update(memory, as_complex(k), as_complex(v), wide(log_decay), wide(beta)))
    return as_pairs((memory @ as_complex(q).unsqueeze(-1)).squeeze(-1), q)


OPERATION = Operation(
    name="phase_hebbian_scan",
    call=phase_hebbian_scan,
    inputs=inputs,
    work=work,
    small={"B": 2, "T": 21, "H": 3, "K": 5},
    shapes=({"B": 2, "T": 256, "H": 4, "K": 32}, {"B": 1, "T": 4096, "H": 4, "K": 32}),
    further=({"B": 2, "T": 256, "H": 16, "K": 32}, {"B": 2, "T": 256, "H": 4, "K": 64}),
    scaling={"B": 1, "H": 2, "K": 16},
    timed=TOKENS,
    state=lambda q, v, **_: (q.shape[0], *v.shape[2:4], *q.shape[3:]),
    step=lambda state, backend, **token: phase_hebbian_scan_step_(
        **token, rule="hebb", state=state, backend=backend
    ),
    peers=(Peer("unbind loop", loop, longest={FORWARD: 4096, TRAINING: 4096}),),
    step_peers=(Peer("eager step", step),),
)


@entries(OPERATION)
def test_phase_hebbian_scan(race, competitor, compete):
    compete(race, competitor)
