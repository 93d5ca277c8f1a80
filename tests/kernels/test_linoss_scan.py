"""linoss_scan: both discretisations, at the ends of their range too, against the float64 recurrence."""

import itertools

import pytest
import torch

from phasefield_kernels import linoss_scan, linoss_scan_step, linoss_scan_step_
from phasefield_kernels.linoss_scan.transition import CRITICAL, transition
from tests.machinery.comparison import assert_agrees_with_reference, relative_error

BACKENDS = ("torch", "native", "triton")
ON_A_CPU = ("torch", "native")
KINDS = ("implicit", "implicit-explicit")


def draw(batch, length, width, kind, seed=0, dtype=torch.float32):
    """Forces, A, dt and a state; s = dt² A from 1e-8 to its largest, its ends among them."""
    generator = torch.Generator().manual_seed(seed)
    dt = 0.05 + 0.9 * torch.rand(width, generator=generator, dtype=torch.float64)
    s = 10 ** (8 * torch.rand(width, generator=generator, dtype=torch.float64) - 8)
    ends = [0.0, CRITICAL * 0.9, CRITICAL * 1.1, 0.5]
    if kind == "implicit-explicit":
        ends += [4 - CRITICAL * 1.1, 4 - CRITICAL * 0.9, 4.0]
    s[: len(ends)] = torch.tensor(ends, dtype=torch.float64)[:width]
    u = torch.randn(batch, length, width, generator=generator, dtype=dtype)
    state = torch.randn(batch, width, 2, generator=generator, dtype=dtype)
    A = s / dt**2
    if dtype == torch.float32 and kind == "implicit-explicit":
        # Rounded down, so that s stays within 4.
        A[6:7] *= 1 - 2**-22
    return u, A.to(dtype), dt.to(dtype), state


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("dtype", "shape", "packed"),
    [
        (torch.float32, (2, 21, 33), False),
        (torch.float32, (2, 70, 70), False),  # several pieces and blocks of the gradients' kernel
        (torch.float32, (2, 1, 9), False),
        (torch.float32, (1, 29, 8), True),
        (torch.bfloat16, (1, 29, 8), True),
    ],
    ids=str,
)
def test_it_agrees_with_the_float64_recurrence(backend, kind, dtype, shape, packed, device):
    u, A, dt, state = draw(*shape, kind)
    length = shape[1]
    offsets = torch.tensor([0, length // 3, length // 3, length - 1, length]) if packed else None
    state = torch.randn(4, shape[2], 2) if packed else state
    # √T roundings of the pairs, and phases to 2e-7 of a turn of 2^-7 at least; one rounding to the
    # output's dtype, and one of the gradient that comes back through it.
    rounding = {torch.float32: 2**-24, torch.bfloat16: 2**-9}[dtype]
    assert_agrees_with_reference(
        linoss_scan,
        {"u": u, "A": A, "dt": dt, "initial_state": state, "cu_seqlens": offsets},
        backend=backend,
        dtype=dtype,
        by_dtype=("u",),
        tolerance={"out1": 16 * 2**-24 * length**0.5, "default": 16 * 2**-24 * length**0.5 + 2 * rounding},
        device=device,
        discretization=kind,
    )


@pytest.mark.parametrize("backend", ON_A_CPU)
@pytest.mark.parametrize("kind", KINDS)
def test_every_channel_is_right_by_itself_over_a_long_time(kind, backend):
    u, A, dt, state = draw(2, 4000, 60, kind)
    inputs = [t.requires_grad_() for t in (u, A, dt, state)]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    y, final = linoss_scan(*inputs, discretization=kind, backend=backend)
    y64, final64 = linoss_scan(*exact, discretization=kind, backend="reference")
    # The loss is Σ y² / 2, whose gradients to A and dt do not cancel over time.
    grads = torch.autograd.grad(y, inputs, y64.float())
    grads64 = torch.autograd.grad(y64, exact, y64.float().double())
    # Errors of T roundings, which add like √T; a float32 recurrence is off by 1e-3 here.
    for channel in range(60):
        for name, actual, expected in [
            ("positions", y[..., channel], y64[..., channel]),
            ("state", final[:, channel], final64[:, channel]),
            *(
                (f"gradient {i}", a[..., channel], e[..., channel])
                for i, (a, e) in enumerate(zip(grads[:3], grads64[:3], strict=True))
            ),
        ]:
            scale = {"state": y64[..., channel].abs().max() / dt[channel]}.get(name, expected.abs().max())
            error = ((actual.double() - expected).abs().max() / scale).item()
            assert error < 8 * 2**-24 * 4000**0.5, (name, channel, (dt**2 * A)[channel].item(), error)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_right_in_float64(kind):
    # Away from s = 0 and 4 by more than gradcheck's step; those ends are checked against autograd above.
    u, A, dt, state = draw(2, 7, 9, kind, dtype=torch.float64)
    keep = [i for i in range(9) if 1e-3 < (dt[i] ** 2 * A[i]) < 3.9] + [2]
    inputs = [u[:, :, keep], A[keep], dt[keep], state[:, keep]]
    inputs = [t.clone().requires_grad_() for t in inputs]

    def function(*inputs):
        return linoss_scan(*inputs, discretization=kind, backend="torch")

    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_the_eigenvalues_are_those_of_the_matrix(kind):
    _, A, dt, _ = draw(1, 1, 40, kind, dtype=torch.float64)
    step = transition(A, dt, kind)
    matrices = step.matrix.unflatten(-1, (2, 2))
    eigenvalues = torch.linalg.eigvals(matrices)
    mine = torch.polar(step.log_decay.exp(), step.angle)
    closest = (eigenvalues - mine.unsqueeze(-1)).abs().amin(-1)
    assert closest[~step.critical].max() < 1e-13 / CRITICAL**0.5
    assert step.critical.any()
    assert not step.critical.all()


@pytest.mark.parametrize("backend", ON_A_CPU)
@pytest.mark.parametrize("kind", KINDS)
def test_the_operator_is_registered_as_torch_wants(kind, backend):
    u, A, dt, state = (t.requires_grad_() for t in draw(2, 6, 9, kind))
    torch.library.opcheck(torch.ops.phasefield.linoss_scan.default, (u, A, dt, state, None, kind, backend))
    step = [t.detach() for t in (u[:, 0], A, dt, state)]
    torch.library.opcheck(torch.ops.phasefield.linoss_scan_step_.default, (*step, kind, backend))


def test_it_compiles_in_one_graph_with_its_backward():
    u, A, dt, state = draw(2, 9, 8, "implicit")
    u.requires_grad_()

    def function(u):
        y, final = linoss_scan(u * 2, A, dt, state)
        return y.square().sum() + final.sum()

    (expected,) = torch.autograd.grad(function(u), u)
    (actual,) = torch.autograd.grad(torch.compile(function, fullgraph=True, backend="aot_eager")(u), u)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_pieces_packed_sequences_and_steps_equal_the_whole(backend, kind, device):
    u, A, dt, start = (t.to(device) for t in draw(1, 20, 9, kind))
    options = dict(discretization=kind, backend=backend)
    whole, final = linoss_scan(u, A, dt, start, **options)

    def assert_close(actual, expected):
        assert relative_error(actual, expected) < 16 * 2**-24 * 20**0.5

    lengths = [0, 7, 0, 12, 1]
    state, begin = start, 0
    for length in lengths:
        y, state = linoss_scan(u[:, begin : begin + length], A, dt, state, **options)
        if length:
            assert_close(y, whole[:, begin : begin + length])
        begin += length
    assert_close(state, final)

    offsets = torch.tensor([0, *itertools.accumulate(lengths)], device=device)
    states = torch.randn(5, 9, 2, device=device)
    y, finals = linoss_scan(u, A, dt, states, cu_seqlens=offsets, **options)
    for s in range(5):
        piece = slice(int(offsets[s]), int(offsets[s + 1]))
        alone, last = linoss_scan(u[:, piece], A, dt, states[s : s + 1], **options)
        assert relative_error(y[:, piece], alone) < 1e-6
        assert_close(finals[s : s + 1], last)

    state, in_place = start, start.clone()
    for t in range(20):
        y, state = linoss_scan_step(u[:, t], A, dt, state, **options)
        again = linoss_scan_step_(u[:, t], A, dt, in_place, **options)
        torch.testing.assert_close(y, whole[:, t], rtol=0, atol=16 * 2**-24 * 20 * whole.abs().max().item())
        torch.testing.assert_close(again, y, rtol=0, atol=16 * 2**-24 * 20 * whole.abs().max().item())
    torch.testing.assert_close(in_place, state, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(2, 0, 3), (0, 4, 3), (2, 3, 0)])
def test_empty_inputs_give_empty_outputs(backend, shape, device):
    u, A, dt, state = (t.to(device).requires_grad_() for t in draw(*shape, "implicit"))
    y, final = linoss_scan(u, A, dt, state, backend=backend)
    assert y.shape == u.shape
    if shape[1] == 0:
        torch.testing.assert_close(final, state)
    final.sum().backward()
    assert all(t.grad.shape == t.shape for t in (u, A, dt, state))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(A=torch.tensor([1.0, -1.0])), "A reaches -1; allowed are squared frequencies"),
        (dict(dt=torch.tensor([1.0, 0.0])), "dt reaches 0; allowed are time steps above 0"),
        (dict(A=torch.tensor([1.0, 5.0]), discretization="implicit-explicit"), "dt² A reaches 5"),
        (dict(A=torch.ones(3)), r"A has shape \[3\]; allowed is \[2\]"),
        (dict(discretization="euler"), "discretization is 'euler'; allowed are 'implicit' and"),
        (dict(initial_state=torch.zeros(3, 2)), "initial_state has shape"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    arguments = dict(u=torch.zeros(1, 4, 2), A=torch.ones(2), dt=torch.ones(2)) | change
    with pytest.raises(ValueError, match=message):
        linoss_scan(**arguments)
