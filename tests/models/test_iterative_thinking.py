"""Iterative Thinking: how it is trained, when it stops, and how it fills masks (its cache:
test_cached_decoder.py)."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from phasefield.generation import stream_tokens
from phasefield.models import (
    IterativeThinking,
    IterativeThinkingConfig,
    MaskedIterativeThinking,
    MaskedIterativeThinkingConfig,
)
from phasefield.models.drafting import UNDECIDED, Sampling
from phasefield.models.iterative_thinking import stopping
from phasefield.models.iterative_thinking.core import pondered
from phasefield.models.iterative_thinking.stopping import settled, think

KINDS = {
    "causal": (IterativeThinking, IterativeThinkingConfig),
    "masked": (MaskedIterativeThinking, MaskedIterativeThinkingConfig),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def build(kind, vocab_size=7, **changes):
    torch.manual_seed(0)
    model_class, config_class = KINDS[kind]
    shape = dict(hidden_dim=16, num_layers=3, num_heads=2, block_size=12)
    return model_class(config_class(vocab_size, **{**shape, **changes}))


def restless(**changes):
    """A masked model, in float64, whose sequences stop at many different passes and for different reasons."""
    model = build("masked", **changes).double().eval()
    core = model.core
    with torch.no_grad():
        core.halting.weight.normal_(0, 0.3)
        core.halting.bias.fill_(-3)
    return model


def texts(rows, length=9):
    return torch.randint(8, (rows, length), generator=torch.Generator().manual_seed(4))


def origins_rule(history):
    """The three rules in the origin's words, on a list of all changes so far."""
    if len(history) < 4:
        return False
    if history[-1] <= 1e-4:
        return True
    if (
        len(history) >= 6
        and sum(abs(a - b) for a, b in zip(history[-3:], history[-6:-3], strict=True)) / 3 < 1e-4
    ):
        return True
    if len(history) >= 5:
        five = history[-5:]
        return five[1] / five[0] < 0.95 and five[2] / five[1] < 0.95 and sum(five) / 5 < 1e-2
    return False


def one_alone(model, tokens, cap):
    """Thinking about one sequence, pass after pass, written as plainly as possible."""
    core = model.core
    inputs = core.project(tokens.unsqueeze(0))
    carried, history, going_on = torch.zeros_like(inputs), [], 1.0
    for number in range(1, cap + 1):  # noqa: B007
        z = inputs + core.carried(carried)
        for block in core.blocks:
            z = block(z)
        following = core.recurrence(z)
        history.append((following - carried).abs().mean().item())
        carried = following
        going_on *= 1 - torch.sigmoid(core.halting(z).mean()).item()
        if going_on <= 0.5 or origins_rule(history):
            break
    return z[0], number


def test_each_sequence_stops_and_answers_as_if_it_were_alone():
    model, tokens = restless(), texts(24)
    with torch.no_grad():
        z, passes = think(model.core, model.core.project(tokens), 40)
        alone = [one_alone(model, row, 40) for row in tokens]
    assert passes.tolist() == [count for _, count in alone]
    torch.testing.assert_close(z, torch.stack([answer for answer, _ in alone]))
    # The batch stops at different times, and for both kinds of reason.
    assert len(set(passes.tolist())) >= 5
    with torch.no_grad():
        model.core.halting.bias.fill_(-50)
        _, by_changes = think(model.core, model.core.project(tokens), 40)
    assert 5 <= int((passes == by_changes).sum()) <= 19


def test_the_answer_does_not_depend_on_batch_mates():
    model, tokens = restless(), texts(24)
    logits, passes = model(tokens)
    order = torch.randperm(24)
    shuffled, shuffled_passes = model(tokens[order])
    assert shuffled_passes.equal(passes[order])
    torch.testing.assert_close(shuffled, logits[order])
    for row in range(0, 24, 5):
        alone, alone_passes = model(tokens[row : row + 1])
        assert alone_passes[0] == passes[row]
        torch.testing.assert_close(alone[0], logits[row])


def test_no_pass_is_computed_for_those_who_left_nor_after_all_have_stopped():
    model, tokens = restless(), texts(24)
    sizes = []
    iterate = model.core.iterate
    model.core.iterate = lambda projected, carried: (
        sizes.append(len(projected)) or iterate(projected, carried)
    )
    _, passes = think(model.core, model.core.project(tokens), 40)
    every = stopping.LOOK_EVERY
    assert sizes == [int((passes > number // every * every).sum()) for number in range(len(sizes))]
    assert len(sizes) == math.ceil(int(passes.max()) / every) * every


@pytest.mark.parametrize(
    ("history", "stops"),
    [
        ([0.5, 0.4, 0.3, 1e-4], True),  # converged
        ([0.5, 0.4, 0.3, 1.01e-4], False),
        ([0.3, 0.2, 0.4, 0.3, 0.2, 0.4], True),  # a period of three
        ([0.3, 0.2, 0.4, 0.3, 0.2, 0.4004], False),
        ([9.0, 0.02, 0.015, 0.006, 0.004, 0.003], True),  # decayed
        ([9.0, 0.02, 0.0192, 0.006, 0.002, 0.001], False),  # too slowly at first
        ([9.0, 0.03, 0.02, 0.006, 0.004, 0.003], False),  # not enough
        ([0.02, 0.015, 0.006, 0.004], False),  # five changes it takes
    ],
)
def test_a_sequence_stops_by_convergence_periodicity_or_decay(history, stops):
    row = torch.tensor([[math.inf] * (6 - len(history)) + history])
    assert settled(row).item() == stops
    assert origins_rule(history) == stops


def test_the_rules_agree_with_the_origins_words_on_many_histories():
    torch.manual_seed(0)
    scale, noise = 10 ** (-4 * torch.rand(4000, 1)), 1 + 0.3 * torch.randn(4000, 6)
    histories = (scale * noise.abs() * torch.rand(4000, 1) ** torch.arange(6)).double()
    expected = [origins_rule(row) for row in histories.tolist()]
    assert settled(histories).tolist() == expected
    assert 500 < sum(expected) < 3500


def test_the_cap_stops_what_nothing_else_stops():
    model = restless(max_iterations=6)
    with torch.no_grad():
        model.core.halting.bias.fill_(-50)
        model.core.halting.weight.zero_()
    _, passes = model(texts(5))
    assert passes.max() == 6


@pytest.mark.parametrize("shape", [(1, 4), (5, 3), (4, 2, 3)])
def test_pondering_is_the_expectation_and_the_divergence_from_the_geometric_prior(shape):
    torch.manual_seed(0)
    costs, halting = torch.rand(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    rate = 0.3
    stop = torch.sigmoid(halting)
    stop[-1] = 1
    p, left = [], torch.ones(shape[1:], dtype=torch.float64)
    for chance in stop:
        p.append(left * chance)
        left = left * (1 - chance)
    p = torch.stack(p)
    prior = [rate * (1 - rate) ** k for k in range(shape[0] - 1)]
    prior = torch.tensor([*prior, 1 - sum(prior)], dtype=torch.float64).reshape(-1, *[1] * (len(shape) - 1))
    expected, divergence = pondered(costs, halting, rate)
    torch.testing.assert_close(expected, (p * costs).sum(0))
    torch.testing.assert_close(divergence, (p * (p / prior).log()).sum(0))
    torch.autograd.gradcheck(
        lambda *x: pondered(*x, rate), (costs.requires_grad_(), halting.requires_grad_())
    )


def saved_bytes(model, tokens):
    """The memory that a training step keeps for its backward, weights apart."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model.train().loss(tokens[:, :-1], tokens[:, 1:]).total
    total = sum(kept.values())
    loss.backward()
    return total


@each_kind
def test_every_weight_has_a_gradient_also_from_a_single_pass(kind):
    model = build(kind, iterations=1, gradient_iterations=1).train()
    tokens = texts(4, 13).clamp(max=6)
    model.loss(tokens[:, :-1], tokens[:, 1:]).total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@each_kind
def test_the_memory_of_training_does_not_grow_with_the_iterations(kind, monkeypatch):
    tokens = texts(4, 13).clamp(max=6)
    most = torch.randint
    # As many passes without gradients as there may be, at each depth.
    monkeypatch.setattr(
        torch, "randint", lambda *a, **k: torch.tensor(a[0] - 1) if a[1:] == ((),) else most(*a, **k)
    )
    sizes = {}
    for iterations in (3, 6, 60):
        model = build(kind, iterations=iterations)
        torch.manual_seed(1)
        sizes[iterations] = saved_bytes(model, tokens)
    assert sizes[3] == sizes[6] == sizes[60] > 0
    assert saved_bytes(build(kind, iterations=6, gradient_iterations=6), tokens) > 2 * sizes[6]


@each_kind
def test_with_gradients_through_all_passes_the_loss_is_pondernets(kind):
    model = build(kind, iterations=4, gradient_iterations=4, convergence_weight=0.5, halting_weight=0.25)
    torch.nn.init.normal_(model.core.halting.weight, 0, 1.0)
    model.double().train()
    tokens = texts(4, 13).clamp(max=6)
    targets = tokens[:, 1:]
    inputs = tokens[:, :-1]
    if kind == "masked":
        torch.manual_seed(5)
        order = torch.rand(4, 12).argsort(1).argsort(1)
        masked = order < torch.randint(1, 13, (4, 1))
        inputs = targets.masked_fill(masked, 7)
    torch.manual_seed(5)
    loss = model.loss(tokens[:, :-1], targets)
    carried, going_on, content, changes = None, 1.0, 0.0, []
    stops = []
    projected = model.core.project(inputs)
    for number in range(4):
        z, following = model.core.iterate(projected, carried)
        cost = F.cross_entropy(model.core.head(z).transpose(1, 2), targets, reduction="none")
        halting = model.core.halting(z).squeeze(-1)
        if kind == "masked":
            cost, halting = (cost * masked).sum(1) / masked.sum() * 4, halting.mean(1)
        chance = torch.sigmoid(halting) if number < 3 else torch.ones_like(halting)
        stops.append(going_on * chance)
        content = content + (going_on * chance * cost).mean()
        going_on = going_on * (1 - chance)
        changes.append((following - (0 if carried is None else carried)).abs().mean())
        carried = following
    prior = [0.2, 0.16, 0.128, 0.512]
    divergence = sum((p * (p / q).log()).mean() for p, q in zip(stops, prior, strict=True))
    # The model takes its logits to float32.
    torch.testing.assert_close(loss.terms["content"].double(), content.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(loss.terms["halting"].double(), divergence.detach(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(loss.terms["convergence"].double(), changes[-1].detach(), rtol=1e-6, atol=0)
    total = content + 0.5 * changes[-1] + 0.25 * divergence
    torch.testing.assert_close(loss.total.double(), total, rtol=1e-6, atol=0)


@each_kind
def test_convergence_and_stopping_have_gradients(kind):
    model = build(kind).train()
    tokens = texts(4, 13).clamp(max=6)
    losses = {}
    for weights in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)):
        changed = copy.deepcopy(model)
        torch.nn.init.normal_(changed.core.halting.bias, 1.0)
        object.__setattr__(changed.config, "convergence_weight", weights[0])
        object.__setattr__(changed.config, "halting_weight", weights[1])
        torch.manual_seed(2)
        changed.loss(tokens[:, :-1], tokens[:, 1:]).total.backward()
        losses[weights] = (changed.core.recurrence.weight.grad, changed.core.halting.bias.grad)
    plain, converging, halting = losses.values()
    assert not plain[0].equal(converging[0])
    assert not plain[1].equal(halting[1])
    assert plain[1].abs().sum() > 0  # also the cross-entropy trains the stopping


def test_a_token_is_read_from_the_pass_at_which_it_has_stopped():
    model = build("causal", iterations=5).double().eval()
    torch.nn.init.normal_(model.core.halting.weight, 0, 2.0)
    tokens = texts(3, 10).clamp(max=6)
    hidden = model.hidden(tokens)
    projected, carried = model.core.project(tokens), None
    going_on, read = torch.ones(3, 10), torch.full((3, 10), -1)
    passes = []
    for number in range(5):
        z, carried = model.core.iterate(projected, carried)
        passes.append(z)
        going_on = going_on * (1 - torch.sigmoid(model.core.halting(z).squeeze(-1)))
        read = torch.where((read < 0) & ((going_on <= 0.5) | (number == 4)), number, read)
    chosen = torch.stack(passes).gather(0, read[None, :, :, None].expand(1, -1, -1, 16))[0]
    torch.testing.assert_close(hidden, chosen)
    assert len(read.unique()) > 2


def test_the_input_projection_is_computed_once():
    model = build("masked").eval()
    calls = []
    model.core.input.register_forward_hook(lambda *_: calls.append(1))
    _, passes = model(texts(3))
    assert passes.max() > 1
    assert len(calls) == 1


def test_evaluation_masks_the_stated_share_and_scores_the_masked_places_alone():
    model = build("masked").double().eval()
    torch.manual_seed(3)
    targets = torch.randint(7, (5, 12))
    seen = []
    hook = model.core.token_embedding.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    loss = model.loss(targets, targets)
    hook.remove()
    masked = seen[0] == 7
    assert (masked.sum(1) == round(0.6 * 12)).all()
    assert seen[0][~masked].equal(targets[~masked])
    assert len(masked.unique(dim=0)) == 5
    log_p = model(seen[0])[0].log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    # The model takes its logits to float32.
    torch.testing.assert_close(loss.terms["content"].double(), -log_p[masked].mean(), rtol=1e-6, atol=0)


def test_drafts_keep_the_most_certain_and_the_last_is_complete():
    model = build("masked").eval()
    tokens, known = torch.randint(7, (3, 10)), torch.zeros(3, 10, dtype=torch.bool)
    known[:, ::4] = True
    known[2] = True
    drafts = list(model.infill(tokens, known, Sampling(temperature=0), drafts=4))
    assert [int((draft[0] == UNDECIDED).sum()) for draft in drafts] == [
        7 * left // 4 for left in (3, 2, 1, 0)
    ]
    for draft in drafts:
        assert draft[known].equal(tokens[known])
    first, _ = model(torch.where(known, tokens, 7))
    certainty = first.softmax(-1).amax(-1).masked_fill(known, 0)[0]
    kept = (drafts[0][0] != UNDECIDED) & ~known[0]
    assert set(kept.nonzero().flatten().tolist()) == set(certainty.topk(2).indices.tolist())
    assert drafts[0][0][kept].equal(first[0].argmax(-1)[kept])


def test_the_likeliest_completion_is_the_same_alone_and_in_a_batch():
    model = restless()
    prompts = torch.randint(7, (6, 4))
    together = model.complete(prompts, 8, temperature=0)
    for row in range(6):
        assert model.complete(prompts[row : row + 1], 8, temperature=0)[0].equal(together[row])


@each_kind
def test_it_learns_a_pattern_and_continues_it(kind):
    torch.manual_seed(0)
    model = build(kind, vocab_size=3, iterations=4, num_layers=2, hidden_dim=24)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    pattern = torch.tensor([0, 1, 1, 2]).repeat(10)
    for _ in range(250):
        starts = torch.randint(4, (16, 1))
        windows = pattern[starts + torch.arange(13)]
        optimizer.zero_grad()
        model.train().loss(windows[:, :-1], windows[:, 1:]).total.backward()
        optimizer.step()
    model.eval()
    prompt = pattern[2:8].unsqueeze(0)
    if kind == "masked":
        drafts = list(model.complete_steps(prompt, 15, temperature=0))
        assert [len(draft[0]) for draft in drafts] == sorted(len(draft[0]) for draft in drafts)
        answer = model.complete(prompt, 15, temperature=0)
        assert drafts[-1].equal(answer)
    else:
        answer = torch.stack(list(stream_tokens(model, prompt, 15, temperature=0)), dim=1)
    assert answer[0].equal(pattern[8:23])


def test_masked_places_learn_from_their_neighbours_in_a_text_without_a_fixed_pattern():
    # A count that jumps one time in ten: a place is known from the next visible one and its distance.
    def counts(rows):
        jumps = torch.rand(rows, 48) < 0.1
        return torch.where(jumps, torch.randint(16, (rows, 48)), 1).cumsum(1) % 16

    torch.manual_seed(0)
    model = build("masked", 16, hidden_dim=32, block_size=48, iterations=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(100):
        windows = counts(12)
        optimizer.zero_grad()
        model.train().loss(windows, windows).total.backward()
        optimizer.step()
    held_out = counts(64)
    # Without its neighbours a place is ln 16 = 2.77; with learned positions it was 2.45 here after 300 steps.
    assert model.eval().loss(held_out, held_out).terms["content"] < 2.0


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("causal", "num_layers", 1),
        ("causal", "iterations", 0),
        ("causal", "gradient_iterations", 7),
        ("causal", "convergence_weight", -1.0),
        ("masked", "halting_rate", 1.0),
        ("masked", "halting_weight", math.inf),
        ("masked", "max_iterations", 0),
        ("masked", "mask_rate", 0.0),
    ],
)
def test_values_out_of_range_are_refused(kind, field, value):
    with pytest.raises(ValueError, match=f"{field} is {value}; it must be"):
        build(kind, **{field: value})


def test_more_tokens_than_the_block_are_refused_where_nothing_can_be_done():
    tokens = torch.zeros(1, 13, dtype=torch.long)
    for kind in KINDS:
        with pytest.raises(ValueError, match=r"tokens has 13 tokens a sequence; .*at most block_size \(12\)"):
            build(kind).train().loss(tokens, tokens)
    with pytest.raises(ValueError, match="at most block_size"):
        build("masked")(tokens)
