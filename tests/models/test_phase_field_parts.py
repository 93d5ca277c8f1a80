"""The parts of the phase-field model against their formulas, step by step in complex128."""

import math

import pytest
import torch
from torch.nn import functional as F

from phasefield.models.phase_field.backbones.linoss import LinOSSRecurrence
from phasefield.models.phase_field.backbones.oscillatory import OscillatoryRecurrence
from phasefield.models.phase_field.backbones.stack import Block
from phasefield.models.phase_field.banks import ContextBank, EmotionBank, LanguageBank, OrthographyBank
from phasefield.models.phase_field.couplers import InterferenceCoupler, RoutedCoupler
from phasefield.models.phase_field.memories import EpisodicMemory, MatrixMemory, SlotMemory, top_k
from phasefield.models.phase_field.original import OriginalBackbone, OriginalCoupler, OriginalSemanticBank
from phasefield.models.phase_field.original.frame import OriginalNorm, OriginalTrunk

DIM, LENGTH = 6, 9


@pytest.fixture(autouse=True)
def in_float64():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def c(x):
    return torch.view_as_complex(x.contiguous())


def r(z):
    return torch.view_as_real(z.resolve_conj())


def draw(length=LENGTH, dim=DIM):
    return torch.randn(2, length, dim, 2)


def moved(module):
    """With every parameter away from where it starts."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


def linear(layer, z):
    return z @ c(layer.weight).T + (0 if layer.bias is None else c(layer.bias))


def rms(norm, z):
    return norm.weight * z * (z.abs().square().mean(-1, keepdim=True) + norm.eps).rsqrt()


def test_the_oscillatory_recurrence_is_its_formula():
    cell, v, u = moved(OscillatoryRecurrence(DIM, 5)), draw(dim=5), draw()
    gate = cell.gate(u.flatten(-2)).sigmoid()
    turn = torch.polar(torch.exp(-torch.exp(cell.log_rate)), cell.angle)
    h, states = torch.zeros(2, 5, dtype=torch.complex128), []
    for t in range(LENGTH):
        h = gate[:, t] * c(v)[:, t] + (1 - gate[:, t]) * turn * h
        states.append(h)
    actual, final = cell(v, u, None)
    torch.testing.assert_close(c(actual), torch.stack(states, 1))
    torch.testing.assert_close(c(final), h)


def test_the_oscillatory_recurrence_starts_with_a_memory_and_all_its_angles():
    cell = OscillatoryRecurrence(DIM, 400)
    kept = 1 - cell.gate.bias.sigmoid()
    damping = torch.exp(-torch.exp(cell.log_rate))
    for values in (kept, damping):
        assert 0.9 - 1e-9 <= values.min() < 0.91
        assert 0.998 < values.max() <= 0.999 + 1e-9
    assert 0 < cell.angle.min() < 0.004
    torch.testing.assert_close(cell.angle.max(), torch.tensor(math.pi))
    # Drawn apart from each other: channels of all combinations.
    assert abs(torch.corrcoef(torch.stack([kept.log(), damping.log()]))[0, 1]) < 0.25  # 5 / √400


@pytest.mark.parametrize("kind", [OscillatoryRecurrence, LinOSSRecurrence])
def test_states_start_as_long_as_they_say(kind):
    cell = kind(DIM, 8)
    if kind is OscillatoryRecurrence:
        torch.nn.init.zeros_(cell.gate.weight)
    v = torch.randn(8, 6000, 8, 2) / math.sqrt(2)
    h, _ = cell(v, torch.zeros(8, 6000, DIM, 2), None)
    length = h[:, 3000:].square().sum(-1).mean((0, 1)).sqrt()
    # Means over 24,000 numbers that stay alike for up to 500 steps: 5 % each, three times that.
    torch.testing.assert_close(length, cell.lengths(), rtol=0.15, atol=0)


def test_a_block_is_its_formula():
    block = moved(Block(DIM, 5, OscillatoryRecurrence(DIM, 5), gain=1.0, dropout=0.0))
    x = draw()
    normed = r(rms(block.norm, c(x))).flatten(-2)
    taps = block.conv.weight[:, 0]  # the last is the present's
    u = sum(F.pad(normed, (0, 0, k, 0))[:, :LENGTH] * taps[:, 3 - k] for k in range(4)) + block.conv.bias
    u = c(u.unflatten(-1, (-1, 2)))
    v, gate = linear(block.input, u).chunk(2, -1)
    v = rms(block.value_norm, v)
    v = v * (v.abs() + block.value_norm.threshold).relu() / v.abs()
    h, _ = block.recurrence(r(v), r(u), None)
    read = rms(block.state_norm, c(h)) + block.skip.squeeze(-1) * v
    read = read * gate / (1 + gate.abs().square()).sqrt()
    torch.testing.assert_close(c(block(x, None)[0]), c(x) + linear(block.output, read))


def test_the_context_bank_weighs_its_window():
    bank = moved(ContextBank(DIM, DIM, window=4))
    x = draw()
    local = torch.zeros_like(x)
    for t in range(LENGTH):
        for distance in range(min(4, t + 1)):
            local[:, t] += bank.taps[distance].unsqueeze(-1) * x[:, t - distance]
    gate = linear(bank.gate, torch.cat([c(x), c(local)], -1))
    h = c(x) + c(local) * gate / (1 + gate.abs().square()).sqrt()
    torch.testing.assert_close(bank(x, None)[0], bank.trunk(r(h)))


@pytest.mark.parametrize("kind", [LanguageBank, EmotionBank])
def test_moods_are_told_from_a_running_mean(kind):
    bank, x = moved(kind(DIM, DIM, 3, tokens=4.0)), draw()
    mean, states = torch.zeros(2, DIM, 2), []
    for t in range(LENGTH):
        mean = 0.75 * mean + 0.25 * x[:, t]
        states.append(mean)
    mean, prototypes = torch.stack(states, 1), bank.prototypes
    coherence = F.cosine_similarity(mean.flatten(-2).unsqueeze(-2), prototypes.vectors.flatten(1), dim=-1)
    weights = (prototypes.log_sharpness.exp() * coherence).softmax(-1).to(torch.complex128)
    if kind is EmotionBank:
        h = c(x) + weights @ c(prototypes.vectors)
    else:
        h = linear(bank.mixer, c(x) * (weights @ c(bank.gates)))
    torch.testing.assert_close(bank(x, None)[0], bank.trunk(r(h)))


def test_orthography_knows_runs_and_not_places():
    bank, tokens = OrthographyBank(DIM, DIM, buckets=1 << 12), torch.tensor([[3, 1, 4, 1, 5, 3, 1, 4, 1, 6]])
    y, _ = bank(torch.zeros(1, 10, DIM, 2), tokens)
    torch.testing.assert_close(y[:, 2:4], y[:, 7:9])  # "3 1 4", "1 4 1" come again
    assert (y[:, 3] - y[:, 1]).abs().max() > 1e-3  # a 1 after "1 4" is not a 1 after "3"


@pytest.mark.parametrize("kind", [InterferenceCoupler, RoutedCoupler])
def test_couplers_are_their_formulas(kind):
    coupler = moved(kind(DIM, [DIM, 4]))
    outputs = [draw(), draw(dim=4)]
    parts = [linear(layer, c(y)) for layer, y in zip(coupler.projections, outputs, strict=True)]
    if kind is RoutedCoupler:
        power = torch.stack([part.abs().square().mean(-1) for part in parts], -1)
        weights = 2 * coupler.router(power).softmax(-1)
        weights = [weights[..., :1], weights[..., 1:]]
    else:
        weights = coupler.weights.squeeze(-1)
    turns = [torch.polar(torch.ones(DIM), rotation.angle()) for rotation in coupler.rotations]
    combined = sum(w * turn * part for w, turn, part in zip(weights, turns, parts, strict=True))
    z = rms(coupler.norm, combined)
    modulus = (z.abs().square() + 1e-8).sqrt()
    expected = linear(coupler.output, torch.relu(modulus + coupler.norm.threshold) * z / modulus)
    actual, own = coupler(outputs)
    torch.testing.assert_close(c(actual), expected)
    torch.testing.assert_close([c(part) for part in own], parts)


@pytest.mark.parametrize("block", [1 << 20, 20])
def test_reading_the_best_slots_is_the_dense_formula(block, monkeypatch):
    monkeypatch.setattr(top_k, "_BLOCK", block)
    q, keys, values = torch.randn(7, 5), torch.randn(9, 5), torch.randn(9, 4)
    sharpness = torch.tensor(1.7)
    inputs = [t.requires_grad_() for t in (q, keys, values, sharpness)]
    scores = q @ keys.T
    left_out = scores < scores.topk(3, dim=1).values[:, -1:]
    expected = (sharpness * scores).masked_fill(left_out, -math.inf).softmax(1) @ values
    actual = top_k.read_top_k(*inputs, 3)
    torch.testing.assert_close(actual, expected)
    cotangent = torch.randn_like(expected)
    for mine, theirs in zip(
        torch.autograd.grad(actual, inputs, cotangent),
        torch.autograd.grad(expected, inputs, cotangent),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)
    every = (sharpness * scores).softmax(1) @ values
    torch.testing.assert_close(top_k.read_top_k(*inputs, 100), every)


def test_the_slots_answer_by_coherence():
    memory, z = moved(SlotMemory(DIM, 7, top_k=7)), draw()
    q = linear(memory.query, c(z))
    coherence = (q.unsqueeze(-2) * c(memory.keys).conj()).sum(-1).real
    coherence = coherence / (q.norm(dim=-1, keepdim=True) * c(memory.keys).norm(dim=-1))
    weights = (memory.log_sharpness.exp() * coherence).softmax(-1).to(torch.complex128)
    expected = linear(memory.output, rms(memory.norm, weights @ c(memory.values)))
    torch.testing.assert_close(c(memory(z)[0]), expected)


def test_shards_are_slots_that_come_and_go(tmp_path):
    memory, z = SlotMemory(DIM, 7, top_k=3), draw()
    before, _ = memory(z)
    keys, values = torch.randn(5, DIM, 2), torch.randn(5, DIM, 2)
    memory.attach_shard("b", keys, values)
    inside, _ = memory(z)
    larger = SlotMemory(DIM, 12, top_k=3)
    larger.load_state_dict(
        {n: t for n, t in memory.state_dict().items() if "shards" not in n}
        | {"keys": torch.cat([memory.keys, keys]), "values": torch.cat([memory.values, values])}
    )
    torch.testing.assert_close(inside, larger(z)[0])
    assert (inside - before).abs().max() > 1e-3
    assert {id(p) for p in memory.parameters()}.isdisjoint(map(id, memory.shards["b"].buffers()))
    memory.save_shard("b", tmp_path / "b.safetensors")
    # A checkpoint carries its shards into a model without them, and takes others out.
    other = SlotMemory(DIM, 7, top_k=3)
    other.attach_shard("mine", keys, values)
    other.load_state_dict(memory.state_dict())
    assert list(other.shards) == ["b"]
    torch.testing.assert_close(other(z)[0], inside)
    assert memory.float().shards["b"].keys.dtype == torch.float32
    memory.double()
    memory.detach_shard("b")
    torch.testing.assert_close(memory(z)[0], before, rtol=1e-5, atol=1e-6)  # it was float32 for a moment
    memory.load_shard("again", tmp_path / "b.safetensors")
    torch.testing.assert_close(memory(z)[0], inside, rtol=1e-5, atol=1e-6)


def test_bad_shards_are_refused():
    memory = SlotMemory(DIM, 7)
    good = torch.randn(5, DIM, 2)
    with pytest.raises(ValueError, match=r"values has shape \[4, 6, 2\]; allowed is \[S, 6, 2\]"):
        memory.attach_shard("b", good, good[:4])
    with pytest.raises(ValueError, match=r"name is 'a\.b'; allowed are letters"):
        memory.attach_shard("a.b", good, good)
    memory.attach_shard("b", good, good)
    with pytest.raises(ValueError, match="a shard 'b' is attached already"):
        memory.attach_shard("b", good, good)
    with pytest.raises(ValueError, match="there is no shard 'a'; attached are b"):
        memory.detach_shard("a")


def test_the_matrix_memory_is_its_formula():
    memory, z = moved(MatrixMemory(DIM, heads=2, states=2)), draw()
    u = rms(memory.input_norm, c(z))
    q, k, v = linear(memory.input, u).view(2, LENGTH, 3, 2, 3).unbind(2)
    q, k = (t / t.norm(dim=-1, keepdim=True) for t in (q, k))
    control = memory.control(r(u).flatten(-2)).view(2, LENGTH, 2, 7)
    beta, decay = control[..., 0].sigmoid(), torch.exp(-F.softplus(control[..., 1:3]))
    mix = torch.complex(control[..., 3:5], control[..., 5:7])
    k = torch.cat([torch.zeros_like(k[:, :1]), k[:, :-1]], dim=1)
    S, reads = torch.zeros(2, 2, 2, 3, 3, dtype=torch.complex128), []
    for t in range(LENGTH):
        S = decay[:, t, :, :, None, None] * S
        missing = v[:, t].unsqueeze(2) - (S @ k[:, t, :, None, :, None]).squeeze(-1)
        S = S + beta[:, t, :, None, None, None] * missing.unsqueeze(-1) * k[:, t, :, None, None].conj()
        reads.append((mix[:, t].unsqueeze(-1) * (S @ q[:, t, :, None, :, None]).squeeze(-1)).sum(2))
    read = torch.stack(reads, 1).flatten(2)
    torch.testing.assert_close(c(memory(z)[0]), linear(memory.output, rms(memory.norm, read)))


def test_the_matrix_memory_finds_what_followed_a_token_before_it_has_learnt():
    memory, z = MatrixMemory(DIM, heads=1, states=1).double(), draw()
    with torch.no_grad():
        memory.control.weight.zero_()
        memory.control.bias.copy_(torch.tensor([40.0, -40, 1, 0]))  # β = 1, no decay, the state as it is
    _, state = memory(z[:, :2])
    again, first = memory.controls(z[:, :1])[0], memory.controls(z[:, 1:2])[2]
    read = torch.einsum("bhsvk,bthk->bthv", c(state.matrices), c(again))
    torch.testing.assert_close(read, c(first))


def test_the_matrix_memory_starts_with_long_and_short_decays():
    decay = MatrixMemory(DIM, heads=2, states=3).control.bias.view(2, -1)[0, 1:4]
    torch.testing.assert_close(F.softplus(decay), torch.tensor([1e-4, 10**-2.75, 10**-1.5]))


def test_the_episodic_memory_attends_to_the_strict_past():
    memory, z = moved(EpisodicMemory(DIM, heads=2, window=4)), draw(11)
    q, k, v = r(linear(memory.input, c(z))).view(2, 11, 3, 2, 6).unbind(2)
    read = torch.zeros(2, 11, 2, 6)
    for t in range(11):
        scores, values = [], []
        for distance in range(1, 5):
            past = t - distance
            key, value = (k[:, past], v[:, past]) if past >= 0 else (0 * k[:, 0], 0 * v[:, 0])
            scores.append((q[:, t] * key).sum(-1) / math.sqrt(6) + memory.bias[:, distance - 1])
            values.append(value)
        weights = torch.stack(scores, -1).softmax(-1)
        read[:, t] = torch.einsum("bhj,jbhd->bhd", weights, torch.stack(values))
    expected = linear(memory.output, c(read.reshape(2, 11, DIM, 2)))
    torch.testing.assert_close(c(memory(z)[0]), expected)
    assert (read[:, 0] == 0).all()


def test_the_origins_norm_turns_short_numbers_by_half_a_turn():
    norm, z = OriginalNorm(64), draw(dim=64)
    m = (c(z).abs().square() + 1e-8).sqrt()
    length = (m - m.mean(-1, keepdim=True)) / (m.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    y = c(norm(z))
    torch.testing.assert_close(y, c(z) / m * length)
    turned = (y * c(z).conj()).real < 0
    assert 0.3 < turned.double().mean() < 0.7


def test_the_origins_parts_are_its_formulas():
    backbone, x = moved(OriginalBackbone(DIM, 2, state_dim=5)), draw()
    z = c(x)
    for norm, layer in zip(backbone.norms, backbone.layers, strict=False):
        u = c(norm(r(z)))
        gate = layer.gate(r(u).flatten(-2)).sigmoid()
        a, rho = layer.a, 0.5 + 0.5 * layer.damping.sigmoid()
        turn = rho * torch.complex((1 - a * a) / (1 + a * a), 2 * a / (1 + a * a))
        h, states = torch.zeros(2, 5, dtype=torch.complex128), []
        for t in range(LENGTH):
            h = gate[:, t] * linear(layer.input, u)[:, t] + (1 - gate[:, t]) * turn * h
            states.append(h)
        z = z + 0.1 * (linear(layer.output, torch.stack(states, 1)) + linear(layer.skip, u))
    torch.testing.assert_close(backbone(x)[0], backbone.norms[-1](r(z)))

    trunk = moved(OriginalTrunk(DIM))
    h = c(x)
    for norm, layer in zip(trunk.norms, trunk.layers, strict=False):
        a = linear(layer, c(norm(r(h))))
        h = h + 0.1 * F.gelu(a.real) * a
    torch.testing.assert_close(c(trunk(x)), linear(trunk.output, c(trunk.norms[-1](r(h)))))

    bank = moved(OriginalSemanticBank(DIM, DIM, 4))
    scores = linear(bank.scores, c(x)).real + bank.vectors[..., 0].mean(-1)
    h = c(x) + 0.1 * scores.softmax(-1).to(torch.complex128) @ c(bank.vectors)
    torch.testing.assert_close(bank(x, None)[0], bank.trunk(r(h)))

    coupler = moved(OriginalCoupler(DIM, [DIM, DIM]))
    parts = [linear(layer, c(x)) for layer in coupler.projections]
    combined = sum(c(w) * part for w, part in zip(coupler.weights, parts, strict=True))
    combined = combined + 0.1 * linear(coupler.cross, torch.cat(parts, -1))
    expected = linear(coupler.output, c(coupler.norm(r(combined))))
    torch.testing.assert_close(c(coupler([x, x])[0]), expected)
