"""phase_norm: agreement with its definition, and what else its contract says."""

import math

import pytest
import torch

from phasefield_kernels import phase_norm
from phasefield_kernels.phase_norm import configs
from tests.machinery.comparison import assert_agrees_with_reference, relative_error

BACKENDS = ("torch", "native", "triton")
ROUNDING = {torch.float32: 2**-24, torch.bfloat16: 2**-9, torch.float16: 2**-12}


def draw(*shape, device="cpu", dtype=torch.float32, seed=0, activated=True):
    generator = torch.Generator().manual_seed(seed)

    def random(*size):
        return torch.randn(*size, generator=generator).to(device, dtype)

    x, weight, threshold = random(*shape, 2), random(shape[-1]), 0.5 * random(shape[-1])
    return [x, weight, *([threshold] if activated else [])]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activated", [False, True])
@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        (torch.float32, (2, 37, 21)),
        (torch.bfloat16, (67, 33)),
        (torch.float16, (5, 1)),
        (torch.float32, (3, 700)),
        (torch.bfloat16, (3, 1, 64)),
    ],
    ids=str,
)
def test_it_agrees_with_its_definition(backend, activated, dtype, shape, device):
    # Another seed than the cotangents': one that points along x has no gradient.
    x, weight, *threshold = draw(*shape, activated=activated, seed=1)
    rows = math.prod(shape[:-1])
    # A number is a dozen float32 operations on a mean over 2D squares, whose roundings add like √(2D) and
    # are divided by 2D: 16 roundings. Parameters sum R rows of such numbers, whose roundings add like √R and
    # whose sum is about as long. Where modReLU's kink lies within a rounding of a number's modulus, the two
    # sides differ by that rounding only in the value, and the gradient there is of a number of that size.
    number = 16 * 2**-24
    assert_agrees_with_reference(
        lambda **tensors: (phase_norm(**tensors),),
        {"x": x, "weight": weight, "threshold": threshold[0] if threshold else None},
        backend=backend,
        dtype=dtype,
        by_dtype=("x",),
        tolerance={
            "out0": number + 2 * ROUNDING[dtype],
            "grad x": 2 * number + 2 * ROUNDING[dtype],
            "default": 2 * number * math.sqrt(rows),
        },
        device=device,
    )


def test_gradients_are_right_in_float64():
    for activated in (False, True):
        inputs = [
            tensor.requires_grad_() for tensor in draw(2, 3, 5, dtype=torch.float64, activated=activated)
        ]
        assert torch.autograd.gradcheck(lambda *tensors: phase_norm(*tensors, backend="torch"), inputs)


def test_many_blocks_of_rows_are_as_one(monkeypatch):
    from phasefield_kernels.phase_norm import blocked

    inputs = [tensor.requires_grad_() for tensor in draw(19, 6)]
    whole = phase_norm(*inputs, backend="torch")
    grads = torch.autograd.grad(whole.square().sum(), inputs)
    monkeypatch.setattr(blocked, "_BLOCK", 24)
    cut = phase_norm(*inputs, backend="torch")
    torch.testing.assert_close(cut, whole, rtol=0, atol=0)
    for actual, expected in zip(torch.autograd.grad(cut.square().sum(), inputs), grads, strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activated", [False, True])
def test_a_turn_of_the_whole_row_turns_the_output_by_the_same_angle(backend, activated, device):
    x, *parameters = draw(7, 19, device=device, activated=activated)
    turn = torch.polar(torch.tensor(1.0), torch.tensor(2.1)).to(device)

    def turned(z):
        return torch.view_as_real(torch.view_as_complex(z) * turn)

    actual = phase_norm(turned(x), *parameters, backend=backend)
    # Turning rounds each part thrice, before and after; the norm adds 16 roundings.
    expected = turned(phase_norm(x, *parameters, backend=backend))
    torch.testing.assert_close(actual, expected, rtol=0, atol=24 * 2**-24 * expected.abs().max().item())


def test_phases_stay_where_weights_are_positive():
    x, weight = draw(7, 19, activated=False)
    y = phase_norm(x, weight.abs() + 0.1)
    cross = torch.view_as_complex(y) * torch.view_as_complex(x).conj()
    assert cross.angle().abs().max() < 8 * 2**-24


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_threshold_of_minus_infinity_switches_a_channel_off(backend, device):
    x, weight, threshold = draw(6, 5, device=device)
    threshold[2] = -math.inf
    inputs = [tensor.requires_grad_() for tensor in (x, weight, threshold)]
    y = phase_norm(*inputs, backend=backend)
    assert (y[:, 2] == 0).all()
    for grad in torch.autograd.grad(y.square().sum() + y.sum(), inputs):
        assert grad.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_of_zeros_has_finite_gradients(backend, device):
    x, *parameters = (tensor.requires_grad_() for tensor in draw(2, 5, device=device))
    y = phase_norm(x * 0, *parameters, backend=backend)
    assert (y == 0).all()
    for grad in torch.autograd.grad(y.sum(), (x, *parameters)):
        assert grad.isfinite().all()


def test_the_operators_are_registered_as_torch_wants():
    for activated in (False, True):
        x, weight, *threshold = (tensor.requires_grad_() for tensor in draw(2, 3, 4, activated=activated))
        threshold = threshold[0] if threshold else None
        arguments = (x, weight, threshold, 1e-6, "torch")
        torch.library.opcheck(torch.ops.phasefield.phase_norm.default, arguments)
        detached = [None if t is None else t.detach() for t in (x, weight, threshold)]
        backward = (torch.randn(2, 3, 4, 2), *detached, 1e-6, "torch")
        torch.library.opcheck(torch.ops.phasefield.phase_norm_backward.default, backward)


def test_it_compiles_in_one_graph_with_its_backward():
    inputs = [tensor.requires_grad_() for tensor in draw(4, 6)]

    def function(x, weight, threshold):
        return phase_norm(x * 2, weight, threshold).square().sum()

    expected = torch.autograd.grad(function(*inputs), inputs)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for actual, wanted in zip(torch.autograd.grad(compiled(*inputs), inputs), expected, strict=True):
        torch.testing.assert_close(actual, wanted)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (2, 0, 4)])
def test_empty_inputs_give_empty_outputs(backend, shape, device):
    inputs = [tensor.requires_grad_() for tensor in draw(*shape, device=device)]
    y = phase_norm(*inputs, backend=backend)
    assert y.shape == (*shape, 2)
    for tensor, grad in zip(inputs, torch.autograd.grad(y.sum(), inputs), strict=True):
        assert torch.equal(grad, torch.zeros_like(tensor))


@pytest.mark.parametrize("backend", BACKENDS)
def test_strides_do_not_matter_and_the_same_inputs_give_the_same_bits(backend, device):
    x, *parameters = draw(6, 9, 11, device=device)
    expected = phase_norm(x, *parameters, backend=backend)
    apart = torch.cat([x, x], dim=-2)[..., :11, :]
    for view in (
        x,
        x.transpose(0, 1).contiguous().transpose(0, 1),
        torch.stack([x, x], dim=-1)[..., 0],
        x.mT.contiguous().mT,
        apart,
    ):
        viewed = view.detach().requires_grad_()
        y = phase_norm(viewed, *parameters, backend=backend)
        # torch sums a strided row in another order: the mean's roundings differ.
        torch.testing.assert_close(y, expected, rtol=0, atol=4 * 2**-24 * expected.abs().max().item())
        assert torch.equal(y, phase_norm(viewed, *parameters, backend=backend))
        torch.autograd.grad(y.sum(), viewed)  # the cotangent is one number repeated


def test_rows_too_wide_for_the_kernels_run_in_the_torch_form(monkeypatch, device):
    monkeypatch.setitem(phase_norm.__globals__, "WIDEST", 8)
    inputs = [tensor.requires_grad_() for tensor in draw(3, 9, device=device)]
    wide = phase_norm(*inputs, backend="triton")
    assert torch.equal(wide, phase_norm(*inputs, backend="torch"))
    torch.autograd.grad(wide.sum(), inputs)


def test_a_layout_covers_the_row_and_pieces_are_made_of_tiles():
    for direction in ("forward", "backward"):
        for width in (1, 7, 64, 700, configs.WIDEST):
            rows, block, _ = configs.layout(direction, width)
            assert block >= width
            assert configs.piece_of(100_000, rows) % rows == 0


def test_bfloat16_is_rounded_once():
    x, weight, threshold = draw(8, 24, dtype=torch.bfloat16)
    exact = phase_norm(x.double(), weight.double(), threshold.double(), backend="reference")
    assert relative_error(phase_norm(x, weight, threshold), exact) <= 2**-9 + 16 * 2**-24


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(x=torch.zeros(3, 4)), r"x has shape \[3, 4\]; allowed is \[..., D, 2\]"),
        (dict(x=torch.zeros(3, 4, 2, dtype=torch.int64)), "x has dtype int64"),
        (dict(weight=torch.zeros(5)), r"weight has shape \[5\]; allowed is \[4\]"),
        (dict(threshold=torch.zeros(4, 2)), r"threshold has shape \[4, 2\]; allowed is \[4\]"),
        (dict(eps=0.0), "eps is 0.0; it must be above 0"),
        (dict(backend="cuda"), "backend is 'cuda'"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = dict(x=torch.zeros(3, 4, 2), weight=torch.zeros(4)) | change
    with pytest.raises(ValueError, match=message):
        phase_norm(**arguments)
