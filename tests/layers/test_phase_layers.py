"""The Phase layers against torch's complex numbers, and which of them commute with a turn of everything."""

import math

import pytest
import torch
from torch import nn

from phasefield.layers import (
    CayleyRotation,
    ModReLU,
    PhaseDropout,
    PhaseEmbedding,
    PhaseGLU,
    PhaseLinear,
    PhaseRMSNorm,
    cayley,
    phase_coherence,
    phase_gate,
    phase_product,
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def draw(*shape):
    return torch.randn(*shape, 2, dtype=torch.float64)


def c(x):
    return torch.view_as_complex(x.contiguous())


def turned(x, angle):
    return torch.view_as_real(c(x) * complex(math.cos(angle), math.sin(angle)))


def randomised(layer):
    """The layer in float64 with every parameter away from where it starts."""
    layer = layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


LAYERS = {
    "linear": lambda: PhaseLinear(6, 6, bias=False),
    "linear with modReLU": lambda: PhaseLinear(6, 6, bias=False, threshold=-0.1),
    "norm": lambda: PhaseRMSNorm(6),
    "norm with modReLU": lambda: PhaseRMSNorm(6, threshold=-0.1),
    "modReLU": lambda: ModReLU(6, threshold=-0.2),
    "rotation": lambda: CayleyRotation(6),
    "dropout": lambda: PhaseDropout(0.5).eval(),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_turn_of_all_inputs_turns_the_output_by_the_same_angle(name):
    layer, x = randomised(LAYERS[name]()), draw(2, 3, 6)
    torch.testing.assert_close(layer(turned(x, 2.0)), turned(layer(x), 2.0))


def test_a_gate_turns_twice_and_a_bias_does_not_turn():
    x = draw(2, 3, 6)
    unit = PhaseGLU(6, 5).double()
    torch.testing.assert_close(unit(turned(x, 2.0)), turned(unit(x), 4.0))
    biased = randomised(PhaseLinear(6, 6))
    assert (biased(turned(x, 2.0)) - turned(biased(x), 2.0)).abs().max() > 0.1


def test_the_linear_map_is_torchs_complex_product():
    layer, x = randomised(PhaseLinear(6, 4)), draw(3, 6)
    expected = c(x) @ c(layer.weight).T + c(layer.bias)
    torch.testing.assert_close(layer(x), torch.view_as_real(expected))
    residual = draw(3, 4)
    torch.testing.assert_close(layer(x, residual), torch.view_as_real(expected) + residual)


def test_a_linear_map_keeps_the_mean_square():
    y = PhaseLinear(256, 512, bias=False).double()(draw(64, 256))
    # The mean of 32,768 squares, each of deviation 2 (its own size): 2 / √32768 = 1 %, five times that.
    assert abs(y.square().sum(-1).mean() / 2 - 1) < 0.05


def test_modrelu_and_norm_are_their_formulas():
    layer, x = randomised(ModReLU(6, threshold=-0.5)), draw(3, 6)
    z = x
    modulus = (c(z).abs().square() + 1e-8).sqrt()
    expected = torch.relu(modulus + layer.threshold) * c(z) / modulus
    torch.testing.assert_close(c(layer(z)), expected)
    assert (expected == 0).any()
    norm = randomised(PhaseRMSNorm(6, threshold=-0.5))
    z = c(z) * norm.weight / (c(z).abs().square().mean(-1, keepdim=True) + 1e-6).sqrt()
    modulus = (z.abs().square() + 1e-8).sqrt()
    torch.testing.assert_close(c(norm(x)), torch.relu(modulus + norm.threshold) * z / modulus)


def test_the_gated_unit_is_its_formula_and_its_gate_never_lengthens():
    unit, x = randomised(PhaseGLU(6, 5)), draw(4, 6)
    value, gate = (c(x) @ c(unit.input.weight).T + c(unit.input.bias)).chunk(2, -1)
    passed = value * gate / (1 + gate.abs().square()).sqrt()
    expected = passed @ c(unit.output.weight).T + c(unit.output.bias)
    torch.testing.assert_close(c(unit(x)), expected)
    assert (c(phase_gate(x, 100 * draw(4, 6))).abs() < c(x).abs()).all()
    gate = torch.zeros(4, 6, 2, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(phase_gate(x, gate).sum(), gate)
    assert grad.isfinite().all()


def test_a_gates_gradients_are_those_of_its_formula():
    # Halves of one tensor, as blocks have them, and a gradient of other strides.
    both = draw(6, 4, 5).requires_grad_()

    def gated(both):
        return phase_gate(*both.chunk(2)).permute(2, 0, 1, 3)

    assert torch.autograd.gradcheck(gated, both)
    weights = torch.randn(5, 3, 4, 2, dtype=torch.float64)
    (expected,) = torch.autograd.grad((gated(both) * weights).sum(), both)
    for value_dtype, gate_dtype in ((torch.float32, torch.bfloat16), (torch.bfloat16, torch.bfloat16)):
        value, gate = both.detach().chunk(2)
        value = value.to(value_dtype).requires_grad_()
        gate = gate.to(gate_dtype).requires_grad_()
        y = phase_gate(value, gate).permute(2, 0, 1, 3)
        assert y.dtype == value_dtype
        found = torch.autograd.grad((y * weights.to(value_dtype)).sum(), (value, gate))
        assert [grad.dtype for grad in found] == [value_dtype, gate_dtype]
        # Inputs, weights and gradients are rounded to bfloat16, each a part of 2^-9.
        torch.testing.assert_close(torch.cat(found).double(), expected, rtol=2**-6, atol=2**-6)
    compiled = torch.compile(phase_gate, fullgraph=True, backend="aot_eager")
    (found,) = torch.autograd.grad((compiled(*both.chunk(2)).permute(2, 0, 1, 3) * weights).sum(), both)
    torch.testing.assert_close(found, expected)


def test_the_cayley_rotation_is_a_rotation_by_its_angle():
    layer, x = randomised(CayleyRotation(6)), draw(3, 6)
    y = layer(x)
    expected = torch.polar(torch.ones(6, dtype=torch.float64), layer.angle())
    torch.testing.assert_close(c(y), c(x) * expected)
    torch.testing.assert_close(c(y).abs(), c(x).abs())
    a = torch.randn(6, dtype=torch.float64)
    identity = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(6, 2)
    torch.testing.assert_close(phase_product(cayley(a), cayley(-a)), identity)
    assert torch.equal(cayley(torch.zeros(6, dtype=torch.float64)), identity)


def test_coherence_is_one_with_itself_and_blind_to_a_common_turn():
    a, b = draw(3, 6), draw(3, 6)
    own = phase_coherence(a, a)
    torch.testing.assert_close(own, torch.ones_like(own))
    torch.testing.assert_close(phase_coherence(a, -2 * a), -own)
    torch.testing.assert_close(phase_coherence(a, turned(a, 1.0)), own * math.cos(1.0))
    torch.testing.assert_close(phase_coherence(turned(a, 2.0), turned(b, 2.0)), phase_coherence(a, b))
    expected = (c(a) * c(b).conj()).sum(-1).real / (c(a).norm(dim=-1) * c(b).norm(dim=-1))
    torch.testing.assert_close(phase_coherence(a, b), expected)


def test_dropout_drops_whole_numbers_in_training_alone():
    layer, x = PhaseDropout(0.25), draw(100, 40)
    y = layer(x)
    dropped = (y == 0).all(-1)
    assert torch.equal(dropped, (y == 0).any(-1))
    # A quarter of 4,000, whose deviation is 0.7 %: five of these to either side.
    assert abs(dropped.double().mean() - 0.25) < 0.035
    torch.testing.assert_close(y[~dropped], x[~dropped] / 0.75)
    assert torch.equal(layer.eval()(x), x)


def test_the_embedding_looks_up_pairs_and_none_is_left_out_of_training():
    layer = PhaseEmbedding(7, 5)
    tokens = torch.tensor([[0, 3], [6, 0]])
    torch.testing.assert_close(layer(tokens), layer.weight[tokens])
    layer(tokens).sum().backward()
    assert (layer.weight.grad[0] == 2).all()


def test_bfloat16_stays_bfloat16():
    for build in LAYERS.values():
        x = torch.randn(2, 6, 2, dtype=torch.bfloat16)
        assert build().bfloat16()(x).dtype == torch.bfloat16
    assert PhaseGLU(6).bfloat16()(x).dtype == torch.bfloat16


def test_all_of_them_compile_in_one_graph():
    layers = nn.Sequential(*(build() for build in LAYERS.values()), PhaseGLU(6))
    x = torch.randn(2, 6, 2)
    compiled = torch.compile(layers, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layers(x))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PhaseLinear(0, 4), "in_dim and out_dim are 0 and 4"),
        (lambda: PhaseEmbedding(0, 4), "num_embeddings and dim are 0 and 4"),
        (lambda: PhaseRMSNorm(0), "dim is 0"),
        (lambda: PhaseDropout(1.0), "p is 1.0; it must be at least 0 and below 1"),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
