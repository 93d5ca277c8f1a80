"""phase_hebbian_scan with several memories a head, read as one."""

import pytest
import torch

from phasefield_kernels import phase_hebbian_scan, phase_hebbian_scan_step, phase_hebbian_scan_step_
from tests.machinery.comparison import relative_error
from tests.machinery.hebbian import at, draw


@pytest.mark.parametrize("rule", ["hebb", "delta"])
@pytest.mark.parametrize("decay", [None, "head", "token"])
def test_several_memories_are_read_as_one(rule, decay):
    tensors = draw(2, 40, 3, 6, 5, True, decay)
    generator = torch.Generator().manual_seed(3)
    shape = {None: None, "head": (3, 4), "token": (2, 40, 3, 4)}[decay]
    log_decay = None if shape is None else -torch.rand(*shape, generator=generator)
    mix = torch.randn(2, 40, 3, 4, 2, generator=generator)
    state = torch.randn(2, 3, 4, 5, 6, 2, generator=generator)
    given = tensors | {"log_decay": log_decay, "initial_state": state}
    inputs = [t.requires_grad_() for t in (*given.values(), mix) if t is not None]
    y, final = phase_hebbian_scan(**given, rule=rule, n_states=4, mix=mix)
    expected, finals = 0, []
    for s in range(4):
        own = None if log_decay is None else log_decay[..., s]
        own_y, last = phase_hebbian_scan(
            **given | {"log_decay": own, "initial_state": state[:, :, s]}, rule=rule, backend="reference"
        )
        weight = torch.view_as_complex(mix[:, :, :, s].contiguous()).unsqueeze(-1)
        expected = expected + torch.view_as_real(weight * torch.view_as_complex(own_y))
        finals.append(last)
    finals = torch.stack(finals, 2)
    assert relative_error(y, expected) < 2e-6
    assert relative_error(final, finals) < 2e-6
    cotangents = torch.randn_like(y), torch.randn_like(final)
    grads = torch.autograd.grad((y, final), inputs, cotangents)
    for grad, want in zip(grads, torch.autograd.grad((expected, finals), inputs, cotangents), strict=True):
        assert (
            relative_error(grad, want) < 1e-5
        )  # sums over 4 memories, 40 steps: 4 · 2^-24 · √(4 · 40 · 6) · 8

    with torch.no_grad():
        in_place = state.detach().clone()
        for t in range(3):
            token = {
                name: x if x is None or (name == "log_decay" and decay == "head") else x[:, t]
                for name, x in at(given, slice(None)).items()
            }
            many = dict(rule=rule, n_states=4, mix=mix[:, t])
            new, state = phase_hebbian_scan_step(**token, **many, state=state)
            assert relative_error(new, y[:, t]) < 2e-6
            assert relative_error(phase_hebbian_scan_step_(**token, **many, state=in_place), y[:, t]) < 2e-6
            assert relative_error(in_place, state) < 2e-6


def test_several_memories_compile_in_one_graph():
    tensors = draw(1, 9, 2, 4, 3, True)
    given = tensors | {"log_decay": None, "initial_state": None}
    mix = torch.randn(1, 9, 2, 3, 2, requires_grad=True)

    def function(mix):
        return phase_hebbian_scan(**given, n_states=3, mix=mix)[0].square().sum()

    (expected,) = torch.autograd.grad(function(mix), mix)
    (actual,) = torch.autograd.grad(torch.compile(function, fullgraph=True, backend="aot_eager")(mix), mix)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(n_states=3), r"mix is None; with n_states = 3 it is \[..., H, 3, 2\]"),
        (dict(mix=torch.zeros(2, 3, 4, 3, 2)), "mix is given without n_states"),
        (dict(n_states=0, mix=torch.zeros(2, 3, 4, 0, 2)), "n_states is 0; allowed are 1 and more"),
        (dict(n_states=2, mix=torch.zeros(2, 3, 4, 3, 2)), r"mix has shape .*; allowed is \[2, 3, 4, 2, 2\]"),
        (dict(q=torch.zeros(2, 3, 4, 5)), r"q has shape \[2, 3, 4, 5\]; allowed is \[B, T, H, K, 2\]"),
    ],
)
def test_bad_arguments_of_several_memories_are_named(change, message):
    q = torch.zeros(2, 3, 4, 5, 2)
    with pytest.raises(ValueError, match=message):
        phase_hebbian_scan(**dict(q=q, k=q, v=q) | change)
