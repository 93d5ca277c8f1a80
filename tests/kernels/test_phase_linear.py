"""phase_linear and phase_matmul beyond agreement with their references (which test_agreement.py checks)."""

import math

import pytest
import torch

from phasefield_kernels import phase_linear, phase_matmul
from tests.machinery.comparison import relative_error

BACKENDS = ("torch", "triton")
WITH_NATIVE = (*BACKENDS, "native")
ALGORITHMS = ("direct", "gauss")


def draw(*lead, inner=7, units=5, device="cpu", dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator).to(device, dtype)

    return {
        "x": random(*lead, inner, 2),
        "weight": random(units, inner, 2) / max(1, inner) ** 0.5,
        "bias": random(units, 2),
        "threshold": random(units) - 0.5,
        "residual": random(*lead, units, 2),
    }


def assert_close(actual, expected, inner=7):
    # Sums of 2 · inner products in float32, whose roundings add like a square root; 8 of those at most.
    scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
    atol = 8 * 2**-24 * math.sqrt(2 * inner) * scale
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("parts", [(), ("bias",), ("threshold",), ("bias", "threshold", "residual")])
def test_gradients_of_the_linear_map_are_right_in_float64(algorithm, parts):
    inputs = draw(2, 3, dtype=torch.float64)
    wanted = {name: inputs[name].requires_grad_() for name in ("x", "weight", *parts)}

    def function(*tensors):
        return phase_linear(**dict(zip(wanted, tensors, strict=True)), algorithm=algorithm, backend="torch")

    assert torch.autograd.gradcheck(function, tuple(wanted.values()))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("a", "b"), [((3, 4), (4, 2)), ((2, 1, 3, 4), (3, 4, 2)), ((4,), (2, 4, 3)), ((4,), (4,))]
)
def test_gradients_of_the_product_are_right_in_float64(algorithm, a, b):
    inputs = [torch.randn(*shape, 2, dtype=torch.float64, requires_grad=True) for shape in (a, b)]

    def function(a, b):
        return phase_matmul(a, b, algorithm=algorithm, backend="torch")

    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("given", [(), ("bias", "threshold", "residual")])
def test_the_operators_of_the_linear_map_are_registered_as_torch_wants(given):
    inputs = draw(4)
    x, weight = inputs["x"], inputs["weight"]
    rest = [inputs[name] if name in given else None for name in ("bias", "threshold", "residual")]
    arguments = [None if t is None else t.clone().requires_grad_() for t in (x, weight, *rest)]
    keep = rest[1] is not None
    torch.library.opcheck(torch.ops.phasefield.phase_linear.default, (*arguments, keep, "direct", "torch"))
    saved = torch.randn(4, 5, 2) if keep else torch.empty(0)
    for needs in ([True] * 4 if keep else [True, True, True, False], [False, True, False, False]):
        backward = (torch.randn(4, 5, 2), x, weight, saved, rest[1], needs, "direct", "torch")
        torch.library.opcheck(torch.ops.phasefield.phase_linear_backward.default, backward)


def test_the_operators_of_the_product_are_registered_as_torch_wants():
    a, b = torch.randn(2, 1, 3, 4, 2, requires_grad=True), torch.randn(3, 4, 5, 2, requires_grad=True)
    torch.library.opcheck(torch.ops.phasefield.phase_matmul.default, (a, b, "direct", "torch"))
    a, b, grad = a.detach(), b.detach(), torch.randn(2, 3, 3, 5, 2)
    for needs in ((True, True), (False, True)):
        torch.library.opcheck(
            torch.ops.phasefield.phase_matmul_backward.default, (grad, a, b, *needs, "direct", "torch")
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activated", [False, True])
def test_they_compile_in_one_graph_with_their_backward(dtype, activated):
    inputs = draw(4, 6, dtype=dtype)
    names = ("x", "weight", "bias", "threshold", "residual") if activated else ("x", "weight")
    tensors = [inputs[name].requires_grad_() for name in names]

    def function(*tensors):
        y = phase_linear(**dict(zip(names, (tensors[0] * 2, *tensors[1:]), strict=True)))
        return (phase_matmul(y, y.transpose(-3, -2)) + phase_matmul(y[0], y[0, 0])).square().sum()

    expected = torch.autograd.grad(function(*tensors), tensors)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for actual, wanted in zip(torch.autograd.grad(compiled(*tensors), tensors), expected, strict=True):
        torch.testing.assert_close(actual, wanted)


def test_they_export():
    class Module(torch.nn.Module):
        def forward(self, x, weight, bias, threshold, residual):
            return phase_matmul(phase_linear(x, weight, bias, threshold, residual), weight)

    inputs = tuple(draw(2, 6, inner=4, units=5).values())
    torch.testing.assert_close(torch.export.export(Module(), inputs).module()(*inputs), Module()(*inputs))


@pytest.mark.parametrize("compiled", [False, True])
def test_autocast_reads_the_input_in_its_dtype_and_keeps_the_weights_gradient_whole(compiled):
    inputs = draw(40, inner=16)
    weight = inputs["weight"].requires_grad_()

    def function(x, weight, bias):
        with torch.autocast("cpu", torch.bfloat16):
            y = phase_linear(x, weight, bias)
            return y, phase_matmul(y.float(), x.transpose(-3, -2)[:5].float())

    call = torch.compile(function, fullgraph=True, backend="aot_eager") if compiled else function
    y, product = call(inputs["x"], weight, inputs["bias"])
    assert y.dtype == product.dtype == torch.bfloat16
    expected = phase_linear(inputs["x"].bfloat16(), weight, inputs["bias"])
    torch.testing.assert_close(y, expected)
    (grad,) = torch.autograd.grad(y.float().sum(), weight)
    assert grad.dtype == torch.float32


def test_autocast_leaves_float64_alone():
    inputs = draw(4, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert phase_linear(inputs["x"], inputs["weight"]).dtype == torch.float64


@pytest.mark.parametrize("backend", WITH_NATIVE)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("shape", [(0, 7, 5), (3, 0, 5), (3, 7, 0), (0, 0, 0)])
def test_empty_inputs_give_empty_outputs_or_the_bias(backend, algorithm, shape, device):
    rows, inner, units = shape
    inputs = draw(rows, inner=inner, units=units, device=device)
    tensors = [tensor.requires_grad_() for tensor in inputs.values()]
    y = phase_linear(**inputs, algorithm=algorithm, backend=backend)
    assert y.shape == (rows, units, 2)
    assert_close(y, phase_linear(**inputs, backend="reference"))
    for tensor, grad in zip(tensors, torch.autograd.grad(y.sum(), tensors), strict=True):
        assert grad.shape == tensor.shape
        assert grad.isfinite().all()


@pytest.mark.parametrize("backend", WITH_NATIVE)
def test_strides_do_not_matter(backend, device):
    inputs = draw(6, 9, inner=11, units=13, device=device)
    expected = phase_linear(**inputs, backend=backend)

    def transposed(t):
        return t.transpose(0, 1).contiguous().transpose(0, 1) if t.ndim > 1 else t

    def spread(t):
        return torch.stack([t, t], dim=-1)[..., 0]

    def odd_offset(t):
        return torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape)

    def rows_apart(t):
        return (
            torch.cat([t, t], dim=0)[: t.shape[0]]
            if t.ndim < 3
            else torch.cat([t, t], dim=-2)[..., : t.shape[-2], :]
        )

    for view in (transposed, spread, odd_offset, rows_apart):
        viewed = {name: view(tensor).requires_grad_() for name, tensor in inputs.items()}
        y = phase_linear(**viewed, backend=backend)
        assert_close(y, expected, 11)
        torch.autograd.grad(y.sum(), list(viewed.values()))  # the cotangent is one number repeated


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    "order", [(0, 1, 2, 3, 4), (1, 0, 2, 3, 4), (2, 3, 1, 0, 4), (3, 2, 0, 1, 4), (0, 1, 3, 4, 2)]
)
def test_products_of_strided_and_repeated_batches_agree(backend, algorithm, order, device):
    generator = torch.Generator().manual_seed(7)

    def strided(*shape):
        inverse = sorted(range(5), key=order.__getitem__)
        stored = torch.randn(*(shape[i] for i in order), generator=generator)
        return stored.permute(inverse).to(device).requires_grad_()

    a, b = strided(2, 3, 4, 5, 2), strided(1, 3, 5, 6, 2)
    y = phase_matmul(a, b.expand(2, -1, -1, -1, -1), algorithm=algorithm, backend=backend)
    exact = torch.view_as_complex(a.detach().cpu().double().contiguous()) @ torch.view_as_complex(
        b.detach().cpu().double().contiguous()
    )
    assert relative_error(y, torch.view_as_real(exact)) < 1e-6  # 10 products, 16 · 2^-24
    cotangent = torch.randn(y.shape, generator=generator).to(device)
    grads = torch.autograd.grad(y, (a, b), cotangent)
    wanted = torch.autograd.grad(phase_matmul(a, b, backend="reference"), (a, b), cotangent)
    for grad, want in zip(grads, wanted, strict=True):
        assert_close(grad, want, 24)


@pytest.mark.parametrize("backend", BACKENDS)
def test_batches_in_more_dimensions_than_the_kernel_has_agree(backend, device):
    a = torch.randn(2, 1, 3, 1, 4, 5, 2, device=device)
    b = torch.randn(1, 2, 1, 3, 5, 4, 2, device=device)
    y = phase_matmul(a, b, backend=backend)
    assert y.shape == (2, 2, 3, 3, 4, 4, 2)
    assert_close(y, phase_matmul(a, b, backend="reference"), 5)


@pytest.mark.parametrize("backend", WITH_NATIVE)
def test_the_same_inputs_give_the_same_bits(backend, device):
    inputs = draw(300, inner=9, units=11, device=device)
    tensors = [tensor.requires_grad_() for tensor in inputs.values()]

    def once():
        y = phase_linear(**inputs, backend=backend)
        return (y, *torch.autograd.grad(y.square().sum(), tensors))

    for one, other in zip(once(), once(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("backend", WITH_NATIVE)
@pytest.mark.parametrize("rows", [1, 5])
def test_a_handful_of_rows_gives_what_many_rows_give(backend, rows, device):
    inputs = draw(40, inner=19, units=33, device=device)
    whole = phase_linear(**inputs, backend=backend)
    few = inputs | {name: inputs[name][:rows] for name in ("x", "residual")}
    assert_close(phase_linear(**few, backend=backend), whole[:rows], 19)


@pytest.mark.parametrize("backend", WITH_NATIVE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_and_gradients_are_finite_at_zero(backend, dtype, device):
    inputs = draw(6, device=device, dtype=dtype)
    inputs["bias"] = inputs["threshold"] = None
    for threshold in (-0.5, 0.0, 0.5):
        x = torch.zeros_like(inputs["x"]).requires_grad_()
        t = torch.full((5,), threshold, device=device, dtype=dtype, requires_grad=True)
        y = phase_linear(x, inputs["weight"], None, t, backend=backend)
        assert (y == 0).all()
        # Of the slope 1 + t/ε of a positive threshold, 5001, the weight makes a number within float16.
        for grad in torch.autograd.grad(y.sum(), (x, t)):
            assert grad.isfinite().all()
            assert threshold >= 0 or (grad == 0).all()


@pytest.mark.parametrize("backend", WITH_NATIVE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_under_the_threshold_is_silent_and_has_no_gradient(backend, dtype, device):
    # |z| = 1, and thresholds a rounding of the dtype away from it on either side: here a modulus taken from
    # rounded pre-activations would be wrong.
    x = torch.tensor([[[0.6, 0.8]]]).repeat(4, 1, 1).to(device, dtype)
    weight = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]]).to(device, dtype)
    modulus = x[0].double().norm().item()
    threshold = torch.tensor([-modulus - 1e-5, -modulus + 1e-5], device=device, requires_grad=True)
    y = phase_linear(x, weight, None, threshold, backend=backend)
    (grad,) = torch.autograd.grad(y.float()[..., 0].sum(), threshold)
    assert (y[:, 0] == 0).all()
    assert (y[:, 1] != 0).any(-1).all()
    assert grad[0] == 0
    assert grad[1].item() == pytest.approx(4 * x[0, 0, 0].item() / modulus, rel=1e-2)


@pytest.mark.parametrize("backend", ["reference", *WITH_NATIVE])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_threshold_of_minus_infinity_switches_a_unit_off(backend, dtype, device):
    inputs = {name: tensor.to(device) for name, tensor in draw(3, dtype=dtype).items() if name != "residual"}
    # Unit 1 at z = 0 too, where t/m is largest.
    inputs["threshold"][:2] = -torch.inf
    inputs["weight"][1], inputs["bias"][1] = 0, 0
    for tensor in inputs.values():
        tensor.requires_grad_()
    y = phase_linear(**inputs, backend=backend)
    grads = dict(zip(inputs, torch.autograd.grad(y.square().sum(), list(inputs.values())), strict=True))
    assert (y[..., :2, :] == 0).all()
    assert (y[..., 2:, :] != 0).any()
    for name in ("weight", "bias", "threshold"):
        assert (grads[name][:2] == 0).all()
        assert grads[name][2:].isfinite().all()
    assert grads["x"].isfinite().all()
    assert (grads["x"] != 0).any()


@pytest.mark.parametrize("backend", WITH_NATIVE)
def test_not_a_number_is_passed_on(backend, device):
    inputs = draw(3, device=device)
    inputs["x"][1, 2, 0] = float("nan")
    y = phase_linear(**inputs, backend=backend)
    assert y[1].isnan().all()
    assert y[[0, 2]].isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_is_kept_where_no_gradient_is_wanted(backend, device):
    inputs = draw(3, device=device)
    arguments = tuple(inputs.values())
    _, saved = torch.ops.phasefield.phase_linear(*arguments, False, "direct", backend)
    assert saved.numel() == 0


def test_gausss_product_is_about_as_exact_as_the_direct_one(device):
    # Measured on standard normal numbers, the largest error over the largest value: in float32 4e-7 and 5e-7
    # at the most, in bfloat16 2.7e-3 and 3.6e-3, where the sums are rounded too.
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.randn(*shape, 2, generator=generator).to(device) for shape in ((64, 256), (256, 64)))
    for dtype, backend, allowed in (
        (torch.float32, "torch", (8e-7, 1.6e-6)),
        (torch.float32, "triton", (8e-7, 1.6e-6)),
        (torch.bfloat16, "triton", (4e-3, 8e-3)),
    ):
        left, right = a.to(dtype), b.to(dtype)
        exact = phase_matmul(left.double().cpu(), right.double().cpu(), backend="reference")
        for algorithm, bound in zip(ALGORITHMS, allowed, strict=True):
            y = phase_matmul(left, right, algorithm=algorithm, backend=backend)
            assert relative_error(y, exact) < bound, (dtype, backend, algorithm)


def test_tf32_is_used_only_where_torch_allows_it(device):
    inputs = draw(32, inner=64, units=32, device=device)
    exact = phase_linear(inputs["x"].double().cpu(), inputs["weight"].double().cpu(), backend="reference")

    def error():
        return relative_error(phase_linear(inputs["x"], inputs["weight"], backend="triton"), exact)

    assert error() < 1e-6
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        assert 1e-5 < error() < 2e-3  # 2^-11 a factor
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(x=torch.zeros(3, 7)), r"x has shape \[3, 7\]; allowed is \[..., K, 2\]"),
        (dict(x=torch.zeros(3, 7, dtype=torch.complex64)), "x has dtype complex64; allowed are float32"),
        (dict(weight=torch.zeros(5, 6, 2)), r"weight has shape \[5, 6, 2\]; allowed is \[N, 7, 2\]"),
        (dict(weight=torch.zeros(5, 7, dtype=torch.complex64)), "weight has dtype complex64"),
        (dict(bias=torch.zeros(5)), r"bias has shape \[5\]; allowed is \[5, 2\]"),
        (dict(threshold=torch.zeros(4)), r"threshold has shape \[4\]; allowed is \[5\]"),
        (dict(residual=torch.zeros(5, 2)), r"residual has shape \[5, 2\]; allowed is \[3, 5, 2\]"),
        (dict(algorithm="strassen"), "algorithm is 'strassen'; allowed are direct, gauss"),
    ],
)
def test_bad_arguments_of_the_linear_map_are_named(change, message):
    arguments = dict(x=torch.zeros(3, 7, 2), weight=torch.zeros(5, 7, 2)) | change
    with pytest.raises(ValueError, match=message):
        phase_linear(**arguments)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (torch.zeros(3, 4), torch.zeros(4, 2, 2), r"a has shape \[3, 4\]; allowed is \[..., M, K, 2\]"),
        (torch.zeros(3, 4, dtype=torch.complex64), torch.zeros(4, 2, 2), "a has dtype complex64"),
        (torch.zeros(3, 4, 2), torch.zeros(4, 2, 2).double(), "b has dtype float64; allowed are float32"),
        (torch.zeros(3, 4, 2), torch.zeros(5, 2, 2), r"K must be 4"),
        (torch.zeros(2, 3, 4, 2), torch.zeros(3, 4, 2, 2), "batch does not broadcast"),
    ],
)
def test_bad_arguments_of_the_product_are_named(a, b, message):
    with pytest.raises(ValueError, match=message):
        phase_matmul(a, b)
