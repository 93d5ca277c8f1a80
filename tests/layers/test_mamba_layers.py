"""Mamba and Mamba-2 blocks: their formulas, their states, and transformers' mixers as a second opinion."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from phasefield.layers import CausalConv1d, Mamba, Mamba2, SSMState


def mamba(**changes):
    torch.manual_seed(0)
    return Mamba(**(dict(dim=10, d_state=5, d_conv=3, expand=3, dt_rank=4) | changes))


def mamba2(**changes):
    torch.manual_seed(0)
    return Mamba2(**(dict(dim=12, d_state=7, head_dim=3, groups=2) | changes))


BUILD = {
    "mamba": mamba,
    "mamba without biases": lambda: mamba(conv_bias=False),
    "mamba with every bias": lambda: mamba(bias=True),
    "mamba of one tap": lambda: mamba(d_conv=1),
    "mamba2": mamba2,
    "mamba2 with every bias": lambda: mamba2(bias=True),
}
every_layer = pytest.mark.parametrize("build", BUILD.values(), ids=BUILD)


def moved(layer):
    """The layer with every parameter off its first value: at them A_log and D would hide mistakes."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return layer


def test_the_block_is_the_papers_loop():
    layer = moved(mamba()).double()
    x = torch.randn(2, 9, 10, dtype=torch.float64)
    normed = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.norm.weight
    u, z = (normed @ layer.in_proj.weight.T).chunk(2, -1)
    padded = F.pad(u, (0, 0, 2, 0))
    u = sum(padded[:, k : k + 9] * layer.conv1d.weight[:, 0, k] for k in range(3)) + layer.conv1d.bias
    u = u * u.sigmoid()
    dt, B, C = (u @ layer.x_proj.weight.T).split([4, 5, 5], -1)
    dt = torch.log1p(torch.exp(dt @ layer.dt_proj.weight.T + layer.dt_proj.bias))
    h, outputs = torch.zeros(2, 30, 5, dtype=torch.float64), []
    for t in range(9):
        step = dt[:, t, :, None]
        h = torch.exp(-step * torch.exp(layer.A_log)) * h + step * B[:, t, None] * u[:, t, :, None]
        outputs.append((h * C[:, t, None]).sum(-1) + layer.D * u[:, t])
    expected = x + (torch.stack(outputs, 1) * z * z.sigmoid()) @ layer.out_proj.weight.T
    y, state = layer(x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(state.ssm, h)
    parameters = list(layer.parameters())
    for mine, theirs in zip(
        torch.autograd.grad(y.square().sum(), parameters),
        torch.autograd.grad(expected.square().sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def test_the_mamba2_block_is_transformers_mixer():
    modeling = pytest.importorskip("transformers.models.mamba2.modeling_mamba2")
    # With one group: the norm by groups is mamba_ssm's, and came late to transformers.
    layer = moved(mamba2(groups=1, bias=True, norm_eps=1e-4))
    config = modeling.Mamba2Config(
        hidden_size=12,
        state_size=7,
        head_dim=3,
        num_heads=8,
        n_groups=1,
        use_bias=True,
        layer_norm_epsilon=1e-4,
        chunk_size=4,
    )
    mixer = modeling.Mamba2Mixer(config, 0)
    weights = {name.replace("gate_norm.", "norm."): w for name, w in layer.state_dict().items()}
    weights["norm.weight"] = layer.gate_norm.weight
    mixer.load_state_dict(weights)
    x = torch.randn(2, 11, 12)
    y, _ = layer(x)
    # Float32 on both sides, in other orders: sums of a few hundred products of order 1.
    torch.testing.assert_close(y, x + mixer(layer.norm(x)), rtol=1e-5, atol=1e-5)


def test_the_mamba2_block_is_the_papers_loop():
    layer = moved(mamba2()).double()  # 8 heads of 3 channels in 2 groups, 7 states
    x = torch.randn(2, 9, 12, dtype=torch.float64)
    normed = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.norm.weight
    z, mixed, dt = (normed @ layer.in_proj.weight.T).split([24, 24 + 2 * 14, 8], -1)
    padded = F.pad(mixed, (0, 0, 3, 0))
    mixed = sum(padded[:, k : k + 9] * layer.conv1d.weight[:, 0, k] for k in range(4)) + layer.conv1d.bias
    v, B, C = (mixed * mixed.sigmoid()).split([24, 14, 14], -1)
    dt = torch.log1p(torch.exp(dt + layer.dt_bias))
    outputs = []
    for head in range(8):
        group, own = head // 4, slice(3 * head, 3 * head + 3)
        S = torch.zeros(2, 3, 7, dtype=torch.float64)
        read = []
        for t in range(9):
            step = dt[:, t, head, None, None]
            key, query = (projection[:, t, None, 7 * group : 7 * group + 7] for projection in (B, C))
            S = torch.exp(-step * layer.A_log[head].exp()) * S + step * v[:, t, own, None] * key
            read.append((S * query).sum(-1) + layer.D[head] * v[:, t, own])
        outputs.append(torch.stack(read, 1))
    gated = (torch.cat(outputs, -1) * z * z.sigmoid()).unflatten(-1, (2, 12))
    gated = (gated / (gated.square().mean(-1, keepdim=True) + 1e-5).sqrt()).flatten(-2)
    expected = x + (gated * layer.gate_norm.weight) @ layer.out_proj.weight.T
    y, state = layer(x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(state.ssm[:, -1], S)
    parameters = list(layer.parameters())
    for mine, theirs in zip(
        torch.autograd.grad(y.square().sum(), parameters),
        torch.autograd.grad(expected.square().sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


@every_layer
def test_pieces_and_single_steps_give_the_whole(build):
    layer = moved(build())
    x = torch.randn(2, 11, layer.dim)
    whole, final = layer(x)
    parts, state = [], None
    for piece in x.split([1, 2, 5, 3], 1):
        part, state = layer(piece, state)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    torch.testing.assert_close(vars(state), vars(final))
    state = layer.init_state(2)
    with torch.no_grad():
        for t in range(11):
            y, state = layer.step(x[:, t], state)
            torch.testing.assert_close(y, whole[:, t])
    torch.testing.assert_close(vars(state), vars(final))


@every_layer
def test_gradients_flow_through_the_state_between_pieces(build):
    layer = moved(build()).double()
    x = torch.randn(1, 6, layer.dim, dtype=torch.float64)
    first, state = layer(x[:, :4])
    second, _ = layer(x[:, 4:], state)
    parameters = list(layer.parameters())
    whole = torch.autograd.grad(layer(x)[0].square().sum(), parameters)
    pieces = torch.autograd.grad(first.square().sum() + second.square().sum(), parameters)
    for mine, theirs in zip(pieces, whole, strict=True):
        torch.testing.assert_close(mine, theirs)
    _, cut = layer(x[:, :4])
    cut = cut.detach()
    assert not cut.conv.requires_grad
    assert not cut.ssm.requires_grad


@every_layer
def test_a_decoding_step_changes_the_state_it_is_given_and_nothing_else(build):
    layer = build()
    state = layer.init_state(3)
    places = state.conv.data_ptr(), state.ssm.data_ptr()
    with torch.no_grad():
        _, after = layer.step(torch.randn(3, layer.dim), state)
    assert (after.conv.data_ptr(), after.ssm.data_ptr()) == places
    assert after.ssm.abs().max() > 0
    moved_state = state.to("cpu")
    assert isinstance(moved_state, SSMState)


@every_layer
def test_layers_run_in_bfloat16_under_autocast_and_compiled(build):
    layer = moved(build())
    x = torch.randn(2, 6, layer.dim)
    expected, _ = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, state = layer(x)
    assert y.dtype == torch.float32  # the residual stream
    assert state.ssm.dtype == state.conv.dtype == torch.float32
    # 2^-8 of sums of order 1 and up, three products deep.
    torch.testing.assert_close(y, expected, rtol=0.05, atol=0.1)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x)[0], expected)
    half = copy.deepcopy(layer).bfloat16()
    y, state = half(x)
    assert y.dtype == torch.float32
    assert state.ssm.dtype == torch.float32
    assert state.conv.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected, rtol=0.05, atol=0.1)
    with torch.no_grad():
        half.step(x[:, 0], half.init_state(2))


def test_mamba_starts_as_the_paper_has_it():
    torch.manual_seed(0)
    layer = Mamba(512)
    assert layer.dt_rank == 32
    dt = F.softplus(layer.dt_proj.bias.double())
    assert dt.min() >= 0.001 * 0.9999  # the float32 bias's rounding, through the softplus
    assert dt.max() <= 0.1 * 1.0001
    # Uniform in its logarithm: the mean of 1024 is within four standard errors, 4 · 0.29 / 32.
    share = (dt.log() - math.log(0.001)) / math.log(100)
    assert abs(share.mean() - 0.5) < 0.04
    torch.testing.assert_close(layer.A_log.exp(), torch.arange(1.0, 17.0).expand(1024, 16))
    assert (layer.D == 1).all()
    bound = 32**-0.5
    assert 0.99 * bound < layer.dt_proj.weight.abs().max() <= bound


def test_mamba2_starts_as_the_paper_has_it():
    torch.manual_seed(0)
    layer = Mamba2(2048, d_state=16)
    dt = F.softplus(layer.dt_bias.double())
    assert 0.001 * 0.9999 <= dt.min() <= dt.max() <= 0.1 * 1.0001
    decay = layer.A_log.exp()
    assert 1 <= decay.min() <= 4
    assert 13 <= decay.max() <= 16.001
    assert layer.heads == 64


@every_layer
def test_weight_decay_is_left_to_the_matrices(build):
    decayed = {
        name
        for name, parameter in build().named_parameters()
        if parameter.ndim >= 2 and not getattr(parameter, "_no_weight_decay", False)
    }
    matrices = {"in_proj.weight", "conv1d.weight", "x_proj.weight", "dt_proj.weight", "out_proj.weight"}
    assert decayed == matrices & {name for name, _ in build().named_parameters()}


def test_the_convolution_is_torchs_own():
    torch.manual_seed(1)
    layer = CausalConv1d(6, 4)
    x = torch.randn(3, 8, 6)
    plain = nn.Conv1d(6, 6, 4, groups=6)
    plain.load_state_dict(layer.state_dict())
    expected = plain(F.pad(x.mT, (3, 0))).mT
    y, tail = layer(x)
    torch.testing.assert_close(y, expected)
    assert torch.equal(tail, x[:, 5:])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Mamba(0), "dim is 0; it must be at least 1"),
        (lambda: Mamba(4, d_conv=0), "d_conv is 0; it must be at least 1"),
        (lambda: Mamba2(4, groups=0), "groups is 0; it must be at least 1"),
        (lambda: Mamba2(12, head_dim=5), "head_dim and groups are 5 and 1; head_dim must divide .* = 24"),
        (lambda: Mamba2(12, head_dim=8, groups=2), "groups the number of heads"),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
