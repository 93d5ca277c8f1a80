"""oscillatory_scan beyond agreement with its reference (which test_agreement.py checks)."""

import itertools

import pytest
import torch

from phasefield_kernels import oscillatory_scan, oscillatory_scan_step, oscillatory_scan_step_

BACKENDS = ("torch", "native", "triton")
FORMS = [("constant", None), ("constant", "constant"), ("token", "token")]


def draw(batch, length, width, angle="constant", damping="constant", device="cpu", seed=0):
    generator = torch.Generator().manual_seed(seed)

    def parameter(kind):
        return torch.rand(*((width,) if kind == "constant" else (batch, length, width)), generator=generator)

    x = torch.randn(batch, length, width, 2, generator=generator)
    gate = 2 * torch.randn(batch, length, width, generator=generator)
    state = torch.randn(batch, width, 2, generator=generator)
    log_damping = None if damping is None else -0.3 * parameter(damping).to(device)
    return x.to(device), gate.to(device), (6 * parameter(angle)).to(device), log_damping, state.to(device)


def assert_close(actual, expected):
    # |h| ≤ max(|x|, |h_0|), about 4: a step adds 8 roundings of that, and gates forget them.
    torch.testing.assert_close(actual, expected, rtol=0, atol=64 * 2**-24 * 4)


def at(parameters, piece):
    return [p[:, piece] if p is not None and p.ndim == 3 else p for p in parameters]


def test_the_definition_is_the_formula():
    x, gate, angle, log_damping, h = draw(2, 5, 3, "token", "token")
    expected = []
    h = torch.view_as_complex(h)
    for t in range(5):
        g = torch.sigmoid(gate[:, t])
        turn = torch.polar(log_damping[:, t].exp(), angle[:, t])
        h = g * torch.view_as_complex(x[:, t]) + (1 - g) * turn * h
        expected.append(torch.view_as_real(h))
    actual, final = oscillatory_scan(*draw(2, 5, 3, "token", "token"), backend="reference")
    assert_close(actual, torch.stack(expected, dim=1))
    assert_close(final, expected[-1])


@pytest.mark.parametrize(("angle", "damping"), FORMS)
def test_gradients_are_right_in_float64(angle, damping):
    inputs = [t.double().requires_grad_() if t is not None else None for t in draw(2, 11, 3, angle, damping)]
    assert torch.autograd.gradcheck(lambda *inputs: oscillatory_scan(*inputs, backend="torch"), inputs)


@pytest.mark.parametrize(("angle", "damping"), FORMS)
def test_the_operator_is_registered_as_torch_wants(angle, damping):
    x, gate, angle, log_damping, state = draw(2, 6, 3, angle, damping)
    inputs = [None if t is None else t.requires_grad_() for t in (x, angle, log_damping, gate, state)]
    torch.library.opcheck(torch.ops.phasefield.rotation_scan.default, (*inputs, None, "torch"))
    step = (x[:, 0], angle[0, 0] if angle.ndim == 3 else angle, None, gate[:, 0], state)
    step = [None if t is None else t.detach() for t in step]
    torch.library.opcheck(torch.ops.phasefield.rotation_scan_step_.default, (*step, "torch"))


def test_it_compiles_in_one_graph_with_its_backward():
    x, *rest = draw(2, 9, 4, "token", "token")
    x.requires_grad_()

    def function(x):
        h, final = oscillatory_scan(x * 2, *rest)
        return h.square().sum() + final.sum()

    (expected,) = torch.autograd.grad(function(x), x)
    (actual,) = torch.autograd.grad(torch.compile(function, fullgraph=True, backend="aot_eager")(x), x)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("angle", "damping"), FORMS)
def test_pieces_fed_one_by_one_give_the_whole(backend, angle, damping, device):
    x, *parameters, state = draw(2, 17, 5, angle, damping, device)
    whole, final = oscillatory_scan(x, *parameters, state, backend=backend)
    begin = 0
    for length in (1, 5, 0, 11):
        piece = slice(begin, begin + length)
        h, state = oscillatory_scan(x[:, piece], *at(parameters, piece), state, backend=backend)
        assert_close(h, whole[:, piece])
        begin += length
    assert_close(state, final)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
@pytest.mark.parametrize(("angle", "damping"), FORMS)
def test_packed_sequences_are_scanned_apart(backend, angle, damping, device):
    x, *parameters, _ = draw(1, 20, 5, angle, damping, device)
    lengths = [0, 7, 0, 12, 1]
    offsets = torch.tensor([0, *itertools.accumulate(lengths)], device=device)
    states = torch.randn(5, 5, 2, device=device)
    h, final = oscillatory_scan(x, *parameters, states, cu_seqlens=offsets, backend=backend)
    for s in range(5):
        piece = slice(int(offsets[s]), int(offsets[s + 1]))
        one = oscillatory_scan(x[:, piece], *at(parameters, piece), states[s : s + 1], backend=backend)
        assert_close(h[:, piece], one[0])
        assert_close(final[s : s + 1], one[1])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("angle", "damping"), FORMS)
def test_steps_equal_the_scan(backend, angle, damping, device):
    x, *parameters, state = draw(3, 6, 5, angle, damping, device)
    whole, final = oscillatory_scan(x, *parameters, state, backend=backend)
    in_place = state.clone()
    for t, x_t in enumerate(x.unbind(1)):
        token = at(parameters, t)
        h, state = oscillatory_scan_step(x_t, *token, state, backend=backend)
        assert_close(h, whole[:, t])
        assert_close(oscillatory_scan_step_(x_t, *token, in_place, backend=backend), whole[:, t])
    assert_close(state, final)
    assert_close(in_place, final)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gates_at_their_ends_pass_the_input_or_the_past(backend, device):
    x, gate, angle, log_damping, state = draw(2, 4, 3, device=device)
    open_, _ = oscillatory_scan(x, gate * 0 + 200, angle, log_damping, state, backend=backend)
    assert_close(open_, x)
    _, kept = oscillatory_scan(x, gate * 0 - 200, angle * 0, None, state, backend=backend)
    assert torch.equal(kept, state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(gate=torch.zeros(2, 4)), r"gate has shape \[2, 4\]; allowed is \[2, 4, 3\]"),
        (dict(gate=torch.zeros(2, 4, 3, dtype=torch.int32)), "gate has dtype int32"),
        (dict(log_damping=torch.ones(3)), "log_damping reaches 1; allowed are logarithms of a decay"),
        (dict(log_damping=torch.ones(4)), r"log_damping has shape \[4\]"),
    ],
)
@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_what_does_not_fit_is_named(change, message, backend):
    arguments = dict(zip(("x", "gate", "angle", "log_damping"), draw(2, 4, 3), strict=False)) | change
    with pytest.raises(ValueError, match=message):
        oscillatory_scan(**arguments, backend=backend)
