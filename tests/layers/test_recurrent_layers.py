"""AperiodicRNN and AperiodicLRU as somebody else's model would use them."""

import copy
import io
import math

import pytest
import torch
from torch import nn

from phasefield.layers import AperiodicLRU, AperiodicRNN, ThermodynamicInertiaLoss

GOLDEN_ANGLE = 2.39996322972865332  # the constant of the origin's code


def layers():
    torch.manual_seed(0)
    return [AperiodicRNN(5, 6, num_layers=3), AperiodicRNN(6, 6, bound_scale=True), AperiodicLRU(6)]


def inputs(layer, batch=2, length=7):
    width = layer.input_dim if isinstance(layer, AperiodicRNN) else layer.dim
    return torch.randn(batch, length, width)


def test_the_stack_is_the_origins_python_loop():
    torch.manual_seed(1)
    layer = AperiodicRNN(4, 9, num_layers=3, phase_scaling=1.618).double()
    with torch.no_grad():
        layer.hidden_scale.uniform_(-1.2, 1.2)
    x = torch.randn(2, 11, 4, dtype=torch.float64)
    hidden = [torch.zeros(2, 9, dtype=torch.float64) for _ in range(3)]
    outputs = []
    for t in range(11):
        below = x[:, t]
        for number, projection in enumerate(layer.projections):
            phase = GOLDEN_ANGLE / 1.618**number * torch.arange(9, dtype=torch.float64)
            turned = hidden[number] * torch.cos(phase + hidden[number])
            below = hidden[number] = torch.tanh(projection(below) + layer.hidden_scale[number] * turned)
        outputs.append(below)
    expected = torch.stack(outputs, 1)
    h, state = layer(x)
    torch.testing.assert_close(h, expected)
    torch.testing.assert_close(state, torch.stack(hidden))
    parameters = list(layer.parameters())
    for mine, theirs in zip(
        torch.autograd.grad(h.square().sum(), parameters),
        torch.autograd.grad(expected.square().sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def test_the_lru_block_is_its_formula():
    torch.manual_seed(2)
    layer = AperiodicLRU(6, 5, layer=2).double()
    x = torch.randn(2, 9, 6, dtype=torch.float64)
    turn = torch.polar(torch.ones(5).double(), GOLDEN_ANGLE / 4 * torch.arange(5, dtype=torch.float64))
    normed = layer.norm(x)
    drive = torch.view_as_complex(layer.input(normed).unflatten(-1, (5, 2)))
    update = layer.update(normed).sigmoid()
    z, outputs = torch.zeros(2, 5, dtype=torch.complex128), []
    for t in range(9):
        z = (1 - update[:, t]) * turn * z + update[:, t] * drive[:, t]
        outputs.append(z)
    read = layer.output(torch.view_as_real(torch.stack(outputs, 1)).flatten(-2))
    y = nn.functional.gelu(read + layer.skip * normed)
    out, state = layer(x)
    values, gates = layer.gate(y).chunk(2, -1)
    torch.testing.assert_close(out, x + values * gates.sigmoid())
    torch.testing.assert_close(state, torch.view_as_real(z))


def test_dropout_drops_numbers_in_training_alone():
    torch.manual_seed(3)
    layer = AperiodicLRU(40, dropout=0.5)
    x = torch.randn(3, 9, 40)
    dropped = layer(x)[0] == x
    # Half of 1,080, four standard deviations to either side; a change may be under x's rounding.
    assert 0.43 < dropped.float().mean() < 0.57
    assert (layer.eval()(x)[0] != x).float().mean() > 0.99


@pytest.mark.parametrize("index", range(3))
def test_pieces_and_single_steps_give_the_whole(index):
    layer = layers()[index]
    x = inputs(layer)
    whole, final = layer(x)
    first, state = layer(x[:, :3])
    second, state = layer(x[:, 3:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(state, final)
    state = layer.init_state(2)
    with torch.no_grad():
        for t in range(x.shape[1]):
            y, state = layer.step(x[:, t], state)
            torch.testing.assert_close(y, whole[:, t])
    torch.testing.assert_close(state, final.detach())


@pytest.mark.parametrize("index", range(3))
def test_layers_copy_pickle_save_and_move(index):
    layer = layers()[index]
    x = inputs(layer)
    expected, _ = layer(x)
    torch.testing.assert_close(copy.deepcopy(layer)(x)[0], expected)
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    torch.testing.assert_close(torch.load(buffer, weights_only=False)(x)[0], expected)
    other = layers()[index]
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other(x)[0], expected)
    torch.testing.assert_close(layer.to("cpu", torch.float64)(x.double())[0].float(), expected)
    assert type(layer).__name__ in repr(layer)


@pytest.mark.parametrize("index", range(3))
def test_conversion_to_bfloat16_leaves_the_angles_exact(index):
    layer = layers()[index]
    phases = layer.phases.clone()
    x = inputs(layer)
    y, state = layer.bfloat16()(x.bfloat16())
    assert y.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    assert torch.equal(layer.phases, phases)


@pytest.mark.parametrize("index", range(3))
def test_layers_run_under_autocast_inference_mode_and_compile(index):
    layer = layers()[index]
    x = inputs(layer)
    expected, _ = layer(x)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x)[0], expected.detach())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = layer(x)
    # The matmuls round their inputs to 8 bits: 2^-8 of values of order 1, a few layers deep.
    torch.testing.assert_close(y.float(), expected, rtol=0, atol=0.1)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x)[0], expected)


def test_the_bounded_scale_stays_under_one():
    layer = AperiodicRNN(3, 4, bound_scale=True)
    with torch.no_grad():
        layer.hidden_scale.fill_(100.0)
    free = AperiodicRNN(3, 4)
    free.load_state_dict(layer.state_dict() | {"hidden_scale": torch.ones(1, 4)})
    x = torch.randn(1, 5, 3)
    torch.testing.assert_close(layer(x)[0], free(x)[0])


def test_radii_start_in_their_ring_and_cannot_leave_the_unit_disc():
    layer = AperiodicLRU(400, min_radius=0.9, max_radius=0.999)
    radius = 1 - layer.update.bias.double().sigmoid()
    assert radius.min() >= 0.9 - 1e-6
    assert radius.max() <= 0.999 + 1e-6
    with torch.no_grad():
        layer.update.bias.fill_(-1e4)
    y, state = layer(torch.randn(1, 64, 400), torch.ones(1, 200, 2))
    assert y.isfinite().all()
    torch.testing.assert_close(state.norm(dim=-1), torch.full((1, 200), 2**0.5))  # turned, and kept whole


def test_inertia_is_the_mean_squared_motion():
    hidden = torch.randn(2, 9, 4)
    total, energy = ThermodynamicInertiaLoss(0.05, 0.1)(torch.tensor(2.0), hidden)
    motion = sum(((hidden[:, t] - hidden[:, t - 1]) ** 2).sum() for t in range(1, 9)) / (2 * 8 * 4)
    expected = 0.05 * math.log((1 + 5**0.5) / 2) * motion
    torch.testing.assert_close(energy, expected)
    torch.testing.assert_close(total, 2.0 + 0.1 * expected)
    assert ThermodynamicInertiaLoss()(torch.tensor(2.0), hidden[:, :1])[1] == 0


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("steps", [2, 3, 9])
def test_the_gradient_of_inertia_is_that_of_its_formula(steps, compiled):
    hidden = torch.randn(steps, 3, 5).transpose(0, 1).requires_grad_()  # strided

    def energy(hidden):
        return ThermodynamicInertiaLoss(0.05, 0.1)(hidden.new_zeros(()), hidden)[1]

    value = torch.compile(energy, fullgraph=True, backend="aot_eager")(hidden) if compiled else energy(hidden)
    (actual,) = torch.autograd.grad(3 * value, hidden)
    exact = hidden.detach().double().requires_grad_()
    mean = ((exact[:, 1:] - exact[:, :-1]) ** 2).mean()
    (expected,) = torch.autograd.grad(3 * 0.05 * math.log((1 + 5**0.5) / 2) * mean, exact)
    # Roundings: two differences, the scale's three factors and the product.
    torch.testing.assert_close(
        actual.double(), expected, rtol=0, atol=8 * 2**-24 * expected.abs().max().item()
    )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AperiodicRNN(0, 4), "input_dim, hidden_dim and num_layers are 0, 4 and 1"),
        (lambda: AperiodicRNN(3, 4, phase_scaling=0.0), "phase_scaling is 0.0; it must be above 0"),
        (
            lambda: AperiodicRNN(3, 4, phase_scaling=math.inf),
            "phase_scaling is inf; it must be above 0 and fin",
        ),
        (lambda: AperiodicRNN(3, 4, 9, phase_scaling=1e99), "layer 4 divides its angle by the power 4"),
        (lambda: AperiodicLRU(0), "each must be at least 1"),
        (lambda: AperiodicLRU(4, min_radius=0.9, max_radius=1.0), "max_radius are 0.9 and 1.0"),
        (lambda: ThermodynamicInertiaLoss(-1.0), "temperature is -1.0; it must be at least 0"),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
