"""gravity_field: agreement with its definition, its stated precision, streaming, and torch's machinery."""

import math
from itertools import pairwise

import pytest
import torch

from phasefield_kernels import gravity_field
from phasefield_kernels.gravity_field import blocked, fused
from phasefield_kernels.gravity_field.configs import Kernels, Layout, Layouts
from tests.machinery.comparison import assert_agrees_with_reference, relative_error

BACKENDS = ("torch", "native", "triton")
ROUNDING = {torch.float32: 2**-24, torch.bfloat16: 2**-9, torch.float16: 2**-12}
PAIRS = [
    dict(),
    dict(causal=False),
    dict(window=7),
    dict(causal=False, window=7),
    dict(sources=41),
    dict(sources=41, window=50),
]


def draw(batch=2, length=75, width=19, sources=None, device="cpu", dtype=torch.float32, seed=0):
    """Points with a coincident pair and near ones, masses of both signs, and given sources (or None)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, length, width, generator=generator)
    if length > 12:
        x[:, 11] = x[:, 3]
        x[:, 12] = x[:, 9] + 0.02 * torch.randn(width, generator=generator)
    source = None
    if sources is not None:
        source = torch.randn(batch, sources, width, generator=generator)
        source[:, -2:] = x[:, :2] + 0.01
    mass = torch.randn(batch, length if sources is None else sources, generator=generator)
    return tuple(t if t is None else t.to(device, dtype) for t in (x, mass, source))


def assert_close(actual, expected, terms):
    # A term errs by some 16 roundings, and terms add like a square root.
    scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
    torch.testing.assert_close(actual, expected, rtol=0, atol=16 * 2**-24 * math.sqrt(terms) * scale)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("pairs", PAIRS, ids=str)
def test_values_and_gradients_agree_with_the_definition(backend, dtype, pairs, device):
    options = {name: value for name, value in pairs.items() if name != "sources"}
    x, mass, source = draw(sources=pairs.get("sources"))
    terms = (x if source is None else source).shape[1]
    assert_agrees_with_reference(
        lambda x, mass, source, backend: (
            gravity_field(x, mass, 1.3, 0.2, source=source, backend=backend, **options),
        ),
        {"x": x, "mass": mass, "source": source},
        backend=backend,
        dtype=dtype,
        by_dtype=("x", "source"),
        # Roundings of the output, of the weights, of the part for points before that for sources is added and
        # of the near pairs' before that; in float32 16 of a term, and terms add like a square root.
        tolerance={"default": 4 * ROUNDING[dtype] + 16 * 2**-24 * math.sqrt(terms)},
        device=device,
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("width", [1, 64, 100, 160, 257])
def test_any_width_agrees_with_the_definition(backend, width, device):
    x, _, _ = draw(1, 37, width)
    assert_agrees_with_reference(
        lambda x, backend: (gravity_field(x, softening=0.2, backend=backend),),
        {"x": x},
        backend=backend,
        dtype=torch.float32,
        by_dtype=("x",),
        tolerance={"default": 16 * 2**-24 * math.sqrt(37) * max(1, math.sqrt(width) / 4)},
        device=device,
    )


@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize("pairs", [dict(), dict(causal=False, window=70)], ids=str)
@pytest.mark.parametrize("batch", [1, 5])
def test_few_and_many_sequences_of_several_tiles_agree(backend, pairs, batch):
    # The native form shares few sequences' points among more units.
    x, mass, _ = draw(batch, 203, 9)
    assert_agrees_with_reference(
        lambda x, mass, backend: (gravity_field(x, mass, softening=0.3, backend=backend, **pairs),),
        {"x": x, "mass": mass},
        backend=backend,
        dtype=torch.float32,
        by_dtype=("x",),
        tolerance={"default": 16 * 2**-24 * math.sqrt(203)},  # 16 of a term, and terms add like a square root
    )


@pytest.mark.parametrize("pairs", PAIRS, ids=str)
@pytest.mark.parametrize("massive", [False, True])
def test_gradients_are_right_in_float64(pairs, massive):
    options = {name: value for name, value in pairs.items() if name != "sources"}
    x, mass, source = draw(1, 13, 3, 5 if "sources" in pairs else None, dtype=torch.float64)
    names = ["x", *(["mass"] if massive else []), *(["source"] if source is not None else [])]
    tensors = dict(x=x, mass=mass, source=source)

    def function(*given):
        return gravity_field(**dict(zip(names, given, strict=True)), softening=0.3, **options)

    assert torch.autograd.gradcheck(function, [tensors[name].requires_grad_() for name in names])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wanted", [("x",), ("mass",), ("source",), ("mass", "source")])
def test_gradients_to_some_inputs_are_those_to_all(backend, wanted, device):
    inputs = dict(zip(("x", "mass", "source"), draw(1, 20, 7, 9, device), strict=True))
    leaves = {name: tensor.requires_grad_() for name, tensor in inputs.items()}
    everything = dict(
        zip(
            leaves,
            torch.autograd.grad(gravity_field(**leaves, backend=backend).sum(), [*leaves.values()]),
            strict=True,
        )
    )
    some = {name: tensor.detach().requires_grad_(name in wanted) for name, tensor in inputs.items()}
    grads = torch.autograd.grad(gravity_field(**some, backend=backend).sum(), [some[n] for n in wanted])
    for name, grad in zip(wanted, grads, strict=True):
        torch.testing.assert_close(grad, everything[name], rtol=0, atol=0)


def pair_bound(x, softening, roundings):
    """Σ_j 1/ρ_ij of unit masses in the past, times the constant stated in the docstring, [B, T, 1]."""
    x = x.double()
    rho = (x.unsqueeze(1) - x.unsqueeze(2)).square().sum(-1) + softening**2
    return roundings * 2**-24 * rho.reciprocal().tril(-1).sum(-1, keepdim=True)


def clustered(device, softening):
    """Unit vectors and long ones, in pairs from coincident over the threshold of nearness to far."""
    generator = torch.Generator().manual_seed(4)
    x = torch.nn.functional.normalize(torch.randn(24, 64, generator=generator), dim=-1)
    away = torch.nn.functional.normalize(torch.randn(24, 64, generator=generator), dim=-1)
    distance = torch.logspace(-4, 0, 24).unsqueeze(-1) * (torch.arange(24).unsqueeze(-1) > 1)
    x = torch.cat([x, x + distance * away, 8 * x, 8 * (x + distance * away)])
    return x[torch.randperm(len(x), generator=generator)].unsqueeze(0).to(device)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("softening", [1e-3, 0.05, 0.3])
def test_the_error_stays_within_the_stated_bound(backend, softening, device):
    x = clustered(device, softening)
    exact = gravity_field(x.double().cpu(), softening=softening, backend="reference")
    error = (gravity_field(x, softening=softening, backend=backend).cpu() - exact).abs()
    kappa = 2 + math.sqrt(64) / 4
    bound = pair_bound(x.cpu(), softening, 96 * kappa + 12 * (2 + math.sqrt(x.shape[1])))
    assert (error <= bound).all(), (error / bound).max()


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_the_treatment_of_near_pairs_the_bound_would_be_exceeded(backend, device, monkeypatch):
    for module in (blocked, fused):
        monkeypatch.setattr(module, "NEAR", 0.0)
    x = clustered(device, 1e-3)
    exact = gravity_field(x.double().cpu(), softening=1e-3, backend="reference")
    error = (gravity_field(x, softening=1e-3, backend=backend).cpu() - exact).abs()
    assert (error > pair_bound(x.cpu(), 1e-3, 2000)).any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_coincident_points_do_not_pull_each_other_and_bend_the_gradient_as_they_should(backend, device):
    # Long vectors, small softening: w = ε^-3 = 8000 times a rounding of |x| = 100 would be a force of 0.05.
    x = torch.full((1, 9, 10), 100 / math.sqrt(10), device=device).requires_grad_()
    force = gravity_field(x, softening=0.05, backend=backend)
    assert (force == 0).all()
    (grad,) = torch.autograd.grad(force[:, -1].sum(), x)
    # dF_8/dx_j = ε^-3, and minus eight times that for x_8 itself.
    assert relative_error(grad[0, :8], torch.full((8, 10), 0.05**-3)) < 1e-6
    assert relative_error(grad[0, 8], torch.full((10,), -8 * 0.05**-3)) < 1e-6


@pytest.mark.parametrize("backend", BACKENDS)
def test_many_near_pairs_in_several_tiles_agree(backend, device):
    # Tokens of a small vocabulary: every tile holds coincident pairs.
    table = torch.randn(5, 12)
    x = table[torch.randint(5, (1, 150), generator=torch.Generator().manual_seed(2))]
    assert_agrees_with_reference(
        lambda x, backend: (gravity_field(x, softening=0.1, backend=backend),),
        {"x": x},
        backend=backend,
        dtype=torch.float32,
        by_dtype=("x",),
        tolerance={"default": 16 * 2**-24 * math.sqrt(150)},
        device=device,
    )


@pytest.mark.parametrize("window", [1, 3, 73, 74, 75, 1000])
@pytest.mark.parametrize("causal", [False, True])
def test_the_window_ends_where_it_should(window, causal):
    # One source of unit mass at a time: who feels it?
    x, _, _ = draw(1, 75, 4)
    for place in (0, 40, 74):
        mass = torch.zeros(1, 75)
        mass[:, place] = 1
        for backend in ("torch", "reference"):
            force = gravity_field(x, mass, causal=causal, window=window, backend=backend)
            ago = torch.arange(75) - place
            feels = (ago.abs() <= window) & ((ago > 0) if causal else (ago != 0))
            # Two tokens on the same spot feel each other, but the force is 0.
            same = (x[0] == x[0, place]).all(-1)
            assert ((force[0] != 0).any(-1) == feels & ~same).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("window", [None, 30, 70])
def test_pieces_with_their_past_as_sources_give_the_whole(backend, window, device):
    x, mass, _ = draw(2, 90, 12, device=device)
    whole = gravity_field(x, mass, window=window, backend=backend)
    pieces = []
    for begin, end in pairwise((0, 1, 64, 89, 90)):
        piece = gravity_field(x[:, begin:end], mass[:, begin:end], window=window, backend=backend)
        past = dict(source=x[:, :begin], mass=mass[:, :begin])
        pieces.append(piece + gravity_field(x[:, begin:end], **past, window=window, backend=backend))
    assert_close(torch.cat(pieces, 1), whole, 90)


@pytest.mark.parametrize("backend", BACKENDS)
def test_decoding_with_a_window_needs_only_that_many_sources(backend, device):
    x, mass, _ = draw(2, 40, 12, device=device)
    whole = gravity_field(x, mass, window=8, backend=backend)
    for t in (0, 5, 39):
        past = slice(max(0, t - 8), t)
        token = gravity_field(x[:, t : t + 1], mass[:, past], source=x[:, past], window=8, backend=backend)
        assert_close(token, whole[:, t : t + 1], 8)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(2, 0, 5), (0, 7, 5), (2, 1, 5), (2, 3, 0)])
def test_empty_and_lonely_points_feel_nothing(backend, shape, device):
    x = torch.randn(shape, device=device, requires_grad=True)
    mass = torch.ones(shape[:2], device=device, requires_grad=True)
    force = gravity_field(x, mass, backend=backend)
    assert force.shape == shape
    assert shape[1] > 1 or (force == 0).all()
    for grad, tensor in zip(torch.autograd.grad(force.sum(), (x, mass)), (x, mass), strict=True):
        assert grad.shape == tensor.shape
        assert (grad == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("points", "sources"), [(3, 0), (0, 3)])
def test_no_sources_and_no_points_give_no_force_and_no_gradient(backend, points, sources, device):
    x = torch.randn(2, points, 5, device=device, requires_grad=True)
    source = torch.randn(2, sources, 5, device=device, requires_grad=True)
    mass = torch.randn(2, sources, device=device, requires_grad=True)
    force = gravity_field(x, mass, source=source, backend=backend)
    assert force.shape == x.shape
    assert (force == 0).all()
    inputs = (x, mass, source)
    for grad, tensor in zip(torch.autograd.grad(force.sum(), inputs), inputs, strict=True):
        assert grad.shape == tensor.shape
        assert (grad == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_strides_do_not_matter(backend, device):
    x, mass, source = draw(2, 20, 16, 9, device)
    expected = gravity_field(x, mass, source=source, backend=backend)

    def transposed(t):
        return t.transpose(0, 1).contiguous().transpose(0, 1)

    def spread(t):
        return torch.stack([t, t], dim=-1)[..., 0]

    def odd_offset(t):
        return torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape)

    for view in (transposed, spread, odd_offset):
        tensors = [view(t).requires_grad_() for t in (x, mass, source)]
        force = gravity_field(tensors[0], tensors[1], source=tensors[2], backend=backend)
        assert_close(force, expected, 9)
        torch.autograd.grad(force.sum(), tensors)  # the cotangent is one number repeated
    repeated = gravity_field(x[:1].expand(2, -1, -1), mass[:1].expand(2, -1), backend=backend, source=source)
    assert_close(repeated[:1], expected[:1], 9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_inputs_give_the_same_bits(backend, device):
    x, mass, _ = draw(2, 80, 12, device=device)
    inputs = [x.requires_grad_(), mass.requires_grad_()]

    def once():
        force = gravity_field(x, mass, softening=0.2, backend=backend)
        return (force, *torch.autograd.grad(force.square().sum(), inputs))

    for one, other in zip(once(), once(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_far_points_keep_their_weights_in_two_bytes(dtype, device):
    # At a distance of 300 a weight is 4e-8, under float16's smallest number.
    x = torch.tensor([[[0.0] * 8, [300.0] + [0.0] * 7]], dtype=dtype, device=device)
    force = gravity_field(x, strength=1e6, backend="triton")
    assert force[0, 1, 0].item() == pytest.approx(-1e6 / 300**2, rel=4 * ROUNDING[dtype])


def test_every_layout_in_the_tables_gives_the_same(device, monkeypatch):
    x, mass, _ = draw(1, 90, 20, device=device)
    expected = gravity_field(x, mass, backend="torch")
    for points, sources, chunk in ((64, 64, 16), (32, 64, 16), (64, 32, 64), (16, 16, 32)):
        same = Layouts(*[Layout(points, sources, chunk, 4, 2)] * 3)
        monkeypatch.setattr(fused, "kernels_for", lambda _, same=same: Kernels(same, same, same))
        assert_close(gravity_field(x, mass, backend="triton"), expected, 90)


def test_the_operators_are_registered_as_torch_wants():
    for x, mass, source in (draw(1, 8, 5, 6), (*draw(1, 8, 5)[:1], None, None)):
        tensors = [t if t is None else t.requires_grad_() for t in (x, mass, source)]
        rest = (1.0, 0.2, True, 4)
        torch.library.opcheck(torch.ops.phasefield.gravity_field.default, (*tensors, *rest, "torch"))
        given = [t if t is None else t.detach() for t in (x, mass, source)]
        needs = [t is not None for t in given]
        arguments = (torch.randn(x.shape), *given, *rest, needs, "torch")
        torch.library.opcheck(torch.ops.phasefield.gravity_field_backward.default, arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_compiles_in_one_graph_with_its_backward(dtype):
    x, mass, source = (t.requires_grad_() for t in draw(2, 9, 6, 5, dtype=dtype))

    def function(x, mass, source):
        y = gravity_field(x * 2, mass, source=source, window=6)
        return (y + gravity_field(x, causal=False)).square().sum()

    expected = torch.autograd.grad(function(x, mass, source), (x, mass, source))
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    grads = torch.autograd.grad(compiled(x, mass, source), (x, mass, source))
    for actual, wanted in zip(grads, expected, strict=True):
        torch.testing.assert_close(actual, wanted)


def test_it_exports():
    class Module(torch.nn.Module):
        def forward(self, x, mass, source):
            return gravity_field(x, mass, source=source)

    inputs = draw(2, 6, 4, 5)
    torch.testing.assert_close(torch.export.export(Module(), inputs).module()(*inputs), Module()(*inputs))


def test_autocast_leaves_the_points_as_they_are():
    x, mass, _ = draw(1, 40, 16)
    with torch.autocast("cpu", torch.bfloat16):
        force = gravity_field(x, mass)
    assert torch.equal(force, gravity_field(x, mass))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(x=torch.zeros(3, 4)), r"x has shape \[3, 4\]; allowed is \[B, T, D\]"),
        (dict(x=torch.zeros(2, 3, 4, dtype=torch.int64)), "x has dtype int64; allowed are float32"),
        (dict(mass=torch.zeros(2, 4)), r"mass has shape \[2, 4\]; allowed is \[2, 3\]"),
        (dict(source=torch.zeros(2, 5, 3)), r"source has shape \[2, 5, 3\]; allowed is \[2, S, 4\]"),
        (dict(source=torch.zeros(2, 5, 4).double()), "source has dtype float64; allowed are float32"),
        (
            dict(source=torch.zeros(2, 5, 4), mass=torch.zeros(2, 3)),
            r"mass has shape .*; allowed is \[2, 5\]",
        ),
        (dict(softening=0.0), "softening is 0.0; allowed are positive numbers"),
        (dict(softening=float("nan")), "softening is nan"),
        (dict(softening=torch.tensor(0.1)), "softening is a tensor; allowed are Python numbers"),
        (dict(strength=torch.tensor(0.1)), "strength is a tensor"),
        (
            dict(x=torch.zeros(2, 3, 4).half(), softening=0.04),
            "softening is 0.04; allowed are at least 0.05 for float16",
        ),
        (dict(window=0), "window is 0; allowed are None and whole numbers from 1"),
    ],
)
def test_bad_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        gravity_field(**dict(x=torch.zeros(2, 3, 4)) | change)
