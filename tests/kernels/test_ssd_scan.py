"""mamba_ssm's Mamba-2 scan on hebbian_scan, against the sequential recurrence."""

import inspect

import pytest
import torch
from torch.nn import functional as F

from phasefield_kernels.compat.mamba_ssm import ssd_scan
from tests.machinery.comparison import relative_error


def recurrence(
    x, dt, A, B, C, D=None, z=None, dt_bias=None, state=None, resets=None, softplus=False, limit=None
):
    """One step after the other in float64: y and all states."""
    batch, length, heads, width = x.shape
    delta = dt if dt_bias is None else dt + dt_bias
    delta = F.softplus(delta) if softplus else delta
    delta = delta if limit is None else delta.clamp(*limit)
    B, C = (t.repeat_interleave(heads // t.shape[2], 2) for t in (B, C))
    h = torch.zeros(batch, heads, width, B.shape[3], dtype=x.dtype) if state is None else state
    outputs, states = [], []
    for t in range(length):
        if resets is not None:
            h = h * ~resets[:, t, None, None, None]
        decay = torch.exp(delta[:, t] * A)[..., None, None]
        h = decay * h + torch.einsum("bh,bhp,bhn->bhpn", delta[:, t], x[:, t], B[:, t])
        states.append(h)
        outputs.append(torch.einsum("bhpn,bhn->bhp", h, C[:, t]))
    y = torch.stack(outputs, 1)
    if D is not None:
        y = y + (D if D.ndim == 2 else D[:, None]) * x
    return (y if z is None else y * F.silu(z)), torch.stack(states, 1)


def draw(groups=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(groups)
    shapes = dict(x=(2, 45, 4, 7), dt=(2, 45, 4), A=(4,), B=(2, 45, groups, 9), C=(2, 45, groups, 9))
    drawn = {name: torch.randn(*shape, generator=generator).to(dtype) for name, shape in shapes.items()}
    return drawn | {"A": -drawn["A"].abs()}, lambda *shape: torch.randn(*shape, generator=generator).to(dtype)


def test_the_signature_is_mamba_ssms():
    # Of mamba_ssm.ops.triton.ssd_combined.mamba_chunk_scan_combined.
    names = (
        "x dt A B C chunk_size D z dt_bias initial_states seq_idx cu_seqlens dt_softplus dt_limit "
        "return_final_states return_varlen_states state_dtype"
    )
    signature = inspect.signature(ssd_scan).parameters
    assert list(signature) == names.split()
    defaults = {name: p.default for name, p in signature.items() if p.default is not p.empty}
    assert defaults.pop("dt_limit") == (0.0, float("inf"))
    assert all(default is None or default is False for default in defaults.values())


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("full", [False, True])
def test_it_is_the_sequential_recurrence_with_its_gradients(groups, full):
    inputs, random = draw(groups)
    if full:
        inputs |= {"D": random(4, 7), "z": random(2, 45, 4, 7), "dt_bias": random(4)}
        inputs["initial_states"] = random(2, 4, 7, 9)
    else:
        inputs |= {"D": random(4), "dt": inputs["dt"].abs()}
    limit = (0.05, 1.0) if full else (0.0, float("inf"))
    leaves = {name: t.requires_grad_() for name, t in inputs.items()}
    y, final = ssd_scan(**leaves, chunk_size=64, dt_softplus=full, dt_limit=limit, return_final_states=True)
    exact = {name: t.detach().double().requires_grad_() for name, t in inputs.items()}
    renamed = {"state" if name == "initial_states" else name: t for name, t in exact.items()}
    expected, states = recurrence(**renamed, softplus=full, limit=limit)
    # 45 steps and 9 states: 6 roundings each in float32, adding like square roots; twice as many backward.
    bound = 6 * 2**-24 * (45 * 9) ** 0.5
    assert relative_error(y, expected) < bound
    assert relative_error(final, states[:, -1]) < bound
    cotangents = random(*y.shape), random(*final.shape)
    grads = torch.autograd.grad((y, final), list(leaves.values()), cotangents)
    wanted = torch.autograd.grad(
        (expected, states[:, -1]), list(exact.values()), [c.double() for c in cotangents]
    )
    for name, grad, want in zip(leaves, grads, wanted, strict=True):
        assert grad.dtype == torch.float32
        assert relative_error(grad, want) < 2 * bound, name


def test_a_new_sequence_index_starts_from_nothing():
    inputs, random = draw()
    inputs["dt"] = inputs["dt"].abs()
    seq_idx = torch.zeros(2, 45, dtype=torch.int32)
    seq_idx[0, 11:] = 1
    seq_idx[0, 40:] = 5
    resets = torch.zeros(2, 45, dtype=torch.bool)
    resets[0, [11, 40]] = True
    state = random(2, 4, 7, 9)
    y, final = ssd_scan(
        **inputs, chunk_size=16, seq_idx=seq_idx, initial_states=state, return_final_states=True
    )
    wide = {name: t.double() for name, t in inputs.items()}
    expected, states = recurrence(**wide, state=state.double(), resets=resets)
    assert relative_error(y, expected) < 1e-6
    assert relative_error(final, states[:, -1]) < 1e-6


def test_states_of_packed_sequences_are_returned():
    inputs, _ = draw()
    inputs = {name: t if name == "A" else t[:1] for name, t in inputs.items()}
    inputs["dt"] = inputs["dt"].abs()
    offsets = torch.tensor([0, 11, 40, 45])
    seq_idx = torch.bucketize(torch.arange(45), offsets[1:], right=True)[None]
    options = dict(seq_idx=seq_idx, cu_seqlens=offsets, return_varlen_states=True, return_final_states=True)
    y, final, varlen = ssd_scan(**inputs, chunk_size=16, **options, state_dtype=torch.bfloat16)
    resets = torch.zeros(1, 45, dtype=torch.bool)
    resets[0, offsets[1:-1]] = True
    expected, states = recurrence(**{name: t.double() for name, t in inputs.items()}, resets=resets)
    assert relative_error(y, expected) < 1e-6
    assert final.dtype == varlen.dtype == torch.bfloat16
    assert relative_error(varlen, states[0, offsets[1:] - 1]) < 2**-8  # rounded to bfloat16
    assert relative_error(final[0], states[0, -1]) < 2**-8


def test_half_precision_inputs_give_half_precision_outputs():
    inputs, random = draw(dtype=torch.bfloat16)
    inputs |= {"dt": inputs["dt"].abs().float(), "A": inputs["A"].float(), "z": random(2, 45, 4, 7)}
    y = ssd_scan(**inputs, chunk_size=64)
    assert y.dtype == torch.bfloat16
    expected, _ = recurrence(**{name: t.double() for name, t in inputs.items()})
    assert relative_error(y, expected) < 4 * 2**-9  # the scan's output and the gated one, each rounded once


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(B=torch.zeros(2, 45, 3, 9), C=torch.zeros(2, 45, 3, 9)), "B has 3 groups; allowed is a number"),
        (dict(C=torch.zeros(2, 45, 2, 8)), r"C has shape \[2, 45, 2, 8\]; allowed is \[2, 45, 2, 9\]"),
        (dict(D=torch.zeros(7)), r"D has shape \[7\]; allowed is \[4\] or \[4, 7\]"),
        (dict(seq_idx=torch.zeros(2, 44)), r"seq_idx has shape \[2, 44\]; allowed is \[2, 45\]"),
        (dict(return_varlen_states=True), "cu_seqlens is None; return_varlen_states needs the offsets"),
    ],
)
def test_bad_arguments_are_named(change, message):
    inputs, _ = draw()
    inputs["dt"] = inputs["dt"].abs()
    with pytest.raises(ValueError, match=message):
        ssd_scan(**inputs | change, chunk_size=64)
