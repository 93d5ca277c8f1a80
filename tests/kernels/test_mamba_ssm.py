"""mamba_ssm's functions on ours: its signatures, constant and varying B and C, a cache of states."""

import inspect

import pytest
import torch
from torch.nn import functional as F

from phasefield_kernels.compat.mamba_ssm import selective_scan_fn, selective_state_update


def test_the_signatures_are_those_of_mamba_ssm():
    # state-spaces/mamba, 2026-07; callers pass most of these by position.
    assert [*inspect.signature(selective_scan_fn).parameters] == (
        ["u", "delta", "A", "B", "C", "D", "z", "delta_bias", "delta_softplus", "return_last_state"]
    )
    assert [*inspect.signature(selective_state_update).parameters] == (
        ["state", "x", "dt", "A", "B", "C", "D", "z", "dt_bias", "dt_softplus", "state_batch_indices"]
    )


def mamba_loop(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False):
    """Mamba's scan as its paper has it, [B, D, L], one step after the other."""
    delta = delta if delta_bias is None else delta + delta_bias[:, None]
    delta = F.softplus(delta) if delta_softplus else delta
    width, length = u.shape[1:]

    def vector(projection, t):
        if projection.ndim == 2:
            return projection.unsqueeze(0)
        if A.is_complex():
            projection = torch.view_as_complex(projection.unflatten(-1, (length, 2)).contiguous())
        if projection.ndim == 3:
            return projection[:, :, t].unsqueeze(1)
        return projection[..., t].repeat_interleave(width // projection.shape[1], dim=1)

    h, outputs = 0, []
    for t in range(length):
        delta_t = delta[:, :, t, None]
        h = torch.exp(delta_t * A) * h + delta_t * vector(B, t) * u[:, :, t, None]
        y = (h * vector(C, t)).sum(-1)
        outputs.append(2 * y.real if A.is_complex() else y)
    y = torch.stack(outputs, dim=-1)
    y = y if D is None else y + D[:, None] * u
    return (y if z is None else y * F.silu(z)), h


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("kind", ["constant", "token", "grouped"])
@pytest.mark.parametrize("plain", [False, True])
def test_mamba_ssms_function_is_mambas_scan(is_complex, kind, plain):
    torch.manual_seed(0)
    batch, width, length, states = 2, 6, 11, 4
    number = torch.complex128 if is_complex else torch.float64
    A = -torch.rand(width, states, dtype=torch.float64)
    A = torch.complex(A, torch.randn_like(A)) if is_complex else A
    if kind == "constant":
        B, C = torch.randn(2, width, states, dtype=number).unbind(0)
    else:
        groups = (3,) if kind == "grouped" else ()
        size = (batch, *groups, states, length * (2 if is_complex else 1))
        B, C = torch.randn(2, *size, dtype=torch.float64).unbind(0)
    u, z = torch.randn(2, batch, width, length, dtype=torch.float64).unbind(0)
    delta = torch.rand(batch, width, length, dtype=torch.float64)
    rest = {}
    if not plain:
        D, bias = torch.randn(2, width, dtype=torch.float64).unbind(0)
        rest = dict(D=D, z=z, delta_bias=bias, delta_softplus=True)
    arguments = [t.clone().requires_grad_() for t in (u, delta, A, B, C)]
    expected, last = mamba_loop(*arguments, **rest)
    actual, state = selective_scan_fn(*arguments, **rest, return_last_state=True)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(state, last)
    assert torch.equal(selective_scan_fn(*arguments, **rest), actual)
    cotangent = torch.randn_like(expected)
    for mine, theirs in zip(
        torch.autograd.grad(actual, arguments, cotangent),
        torch.autograd.grad(expected, arguments, cotangent),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_mamba_ssms_update_moves_the_state_by_one_token(heads, dtype):
    torch.manual_seed(0)
    lanes = (3, 4) if heads else (6,)
    state = torch.randn(2, *lanes, 5).to(dtype)
    x, z = torch.randn(2, 2, *lanes).unbind(0)
    dt, A = torch.rand(2, *lanes), -torch.rand(*lanes, 5)
    B, C = torch.randn(2, 2, 3, 5).unbind(0)
    D, bias = torch.randn(2, *lanes).unbind(0)
    delta = F.softplus(dt + bias).unsqueeze(-1)
    wide_B, wide_C = (t.repeat_interleave(12 // 3 if heads else 2, dim=1).view(2, *lanes, 5) for t in (B, C))
    expected = torch.exp(delta * A) * state.float() + delta * x.unsqueeze(-1) * wide_B
    y = ((expected * wide_C).sum(-1) + D * x) * F.silu(z)
    actual = selective_state_update(state, x, dt, A, B, C, D, z, bias, dt_softplus=True)
    torch.testing.assert_close(actual, y)
    torch.testing.assert_close(state, expected.to(dtype))


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("constant", ["B", "C"])
@pytest.mark.parametrize("groups", [None, 2])
def test_one_of_b_and_c_may_be_constant(is_complex, constant, groups):
    torch.manual_seed(0)
    batch, width, length, states = 2, 6, 7, 3
    number = torch.complex128 if is_complex else torch.float64
    A = -torch.rand(width, states, dtype=torch.float64).to(number)
    own = torch.randn(width, states, dtype=number)
    lead = (batch,) if groups is None else (batch, groups)
    by_token = torch.randn(*lead, states, length * (1 + is_complex), dtype=torch.float64)
    B, C = (own, by_token) if constant == "B" else (by_token, own)
    u = torch.randn(batch, width, length, dtype=torch.float64)
    delta = torch.rand(batch, width, length, dtype=torch.float64)
    inputs = [t.requires_grad_() for t in (u, delta, A, B, C)]
    actual, expected = selective_scan_fn(*inputs), mamba_loop(*inputs)[0]
    torch.testing.assert_close(actual, expected)
    cotangent = torch.randn_like(expected)
    for mine, theirs in zip(
        torch.autograd.grad(actual, inputs, cotangent),
        torch.autograd.grad(expected, inputs, cotangent),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_update_moves_the_rows_of_a_cache_that_are_named(heads, dtype):
    torch.manual_seed(0)
    lanes, width = ((3, 4), 12) if heads else ((6,), 6)
    cache = torch.randn(9, *lanes, 5).to(dtype)
    before = cache.clone()
    indices = torch.tensor([7, -1, 2], dtype=torch.int32)
    x, z, dt = torch.randn(3, 3, *lanes).unbind(0)
    A = -torch.rand(*lanes, 5)
    B, C = torch.randn(2, 3, 3, 5).unbind(0)
    D, bias = torch.randn(2, *lanes).unbind(0)
    y = selective_state_update(cache, x, dt, A, B, C, D, z, bias, True, indices)
    delta = F.softplus(dt + bias).unsqueeze(-1)
    wide_B, wide_C = (t.repeat_interleave(width // 3, dim=1).view(3, *lanes, 5) for t in (B, C))
    moved = torch.exp(delta * A) * before[indices.clamp(min=0)].float() + delta * x.unsqueeze(-1) * wide_B
    expected = ((moved * wide_C).sum(-1) + D * x) * F.silu(z)
    torch.testing.assert_close(y[[0, 2]], expected[[0, 2]])
    assert (y[1] == 0).all()  # padding
    torch.testing.assert_close(cache[[7, 2]], moved[[0, 2]].to(dtype))
    untouched = [0, 1, 3, 4, 5, 6, 8]
    assert torch.equal(cache[untouched], before[untouched])
