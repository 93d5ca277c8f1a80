"""hebbian_scan and phase_hebbian_scan piece by piece, sequence by sequence and token by token."""

import itertools

import pytest
import torch

from tests.machinery.comparison import relative_error
from tests.machinery.hebbian import EVERYWHERE, FORMS, OPS, at, draw


@pytest.mark.parametrize(("backend", "is_complex", "rule"), EVERYWHERE)
def test_pieces_packed_sequences_and_steps_equal_the_whole(backend, is_complex, rule, device):
    op, step, step_ = OPS[is_complex]
    lengths = [0, 33, 1, 36] if backend == "torch" else [0, 17, 1, 20]
    tensors = {name: t.to(device) for name, t in draw(1, sum(lengths), 1, 6, 5, is_complex).items()}
    start = state = tensors["initial_state"]
    whole, final = op(**tensors, rule=rule, backend=backend)
    begin = 0
    for length in lengths:
        y, state = op(
            **at(tensors, slice(begin, begin + length)), rule=rule, initial_state=state, backend=backend
        )
        assert relative_error(y, whole[:, begin : begin + length].cpu()) < 1e-6  # of values near the largest
        begin += length
    assert relative_error(state, final.cpu()) < 1e-6

    offsets = torch.tensor([0, *itertools.accumulate(lengths)], device=device)
    states = torch.randn(4, *start.shape[1:], device=device)
    y, finals = op(**tensors | {"initial_state": states}, rule=rule, cu_seqlens=offsets, backend=backend)
    for s in range(4):
        piece = slice(int(offsets[s]), int(offsets[s + 1]))
        alone, last = op(**at(tensors, piece), rule=rule, initial_state=states[s : s + 1], backend=backend)
        assert relative_error(y[:, piece], alone.cpu()) < 1e-6
        assert relative_error(finals[s : s + 1], last.cpu()) < 1e-6

    state, in_place = start, start.clone()
    for t in range(2):
        token = {name: None if x is None else x[:, t] for name, x in at(tensors, slice(None)).items()}
        y, state = step(**token, rule=rule, state=state, backend=backend)
        assert relative_error(y, whole[:, t].cpu()) < 1e-6
        y = step_(**token, rule=rule, state=in_place, backend=backend)
        assert relative_error(y, whole[:, t].cpu()) < 1e-6
        assert relative_error(in_place, state.cpu()) < 1e-6


@pytest.mark.parametrize("backend", ["native"])
@pytest.mark.parametrize(("is_complex", "rule"), FORMS)
@pytest.mark.parametrize(
    ("sizes", "decay", "dtype"),
    [
        ((2, 3, 5, 7), "token", torch.float32),
        ((1, 2, 64, 64), "head", torch.float32),
        ((1, 2, 256, 3), None, torch.float32),
        ((2, 2, 33, 1), "token", torch.bfloat16),
        ((1, 1, 1, 1), None, torch.float32),
    ],
    ids=str,
)
def test_a_native_step_is_that_of_the_definition(backend, is_complex, rule, sizes, decay, dtype):
    batch, heads, columns, rows = sizes
    tensors = draw(batch, 3, heads, columns, rows, is_complex, decay, decay is not None)
    tensors |= {name: tensors[name].to(dtype) for name in ("q", "k", "v")}
    exact = {name: None if t is None else t.double() for name, t in tensors.items()}
    op, _, step_ = OPS[is_complex]
    wanted, final = op(**exact, rule=rule, backend="reference")
    state = tensors.pop("initial_state").clone()
    outputs = []
    for t in range(3):
        token = {name: x if x is None or x.ndim == 1 else x[:, t] for name, x in tensors.items()}
        outputs.append(step_(**token, rule=rule, state=state, backend=backend))
    # Three sums over K numbers, whose roundings add like square roots; then one to the output's dtype.
    allowed = 4 * 2**-24 * (3 * columns * (1 + is_complex)) ** 0.5
    assert relative_error(state, final) < allowed
    rounding = 0 if dtype == torch.float32 else 2**-8
    assert relative_error(torch.stack(outputs, dim=1), wanted) < allowed + rounding


@pytest.mark.parametrize("rule", ["hebb", "delta"])
@pytest.mark.parametrize("is_complex", [False, True])
def test_the_step_in_place_of_no_sequences_gives_no_outputs(is_complex, rule):
    tensors = draw(0, 1, 3, 4, 5, is_complex)
    state = tensors["initial_state"]
    token = {name: t[:, 0] for name, t in at(tensors, slice(None)).items()}
    y = OPS[is_complex][2](**token, rule=rule, state=state)
    assert y.shape == token["v"].shape


def test_the_step_in_place_refuses_to_drop_a_gradient():
    for is_complex in (False, True):
        tensors = draw(2, 1, 3, 4, 5, is_complex)
        state = tensors["initial_state"]
        token = {name: t[:, 0] for name, t in at(tensors, slice(None)).items()}
        token["q"].requires_grad_()
        with pytest.raises(RuntimeError, match="hebbian_scan_step_ changes its state in place"):
            OPS[is_complex][2](**token, rule="hebb", state=state)
