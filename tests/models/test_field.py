"""The field model: what it computes, that it never looks ahead, and that it learns without a gradient."""

import pytest
import torch
from torch.nn import functional as F

from phasefield.layers.perturbation import Kind
from phasefield.models import Field, FieldConfig

VOCAB = 11


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def text(batch, length, seed=0):
    # Runs of a period of four among noise, so that there is something to remember.
    tokens = torch.randint(0, VOCAB, (batch, length), generator=generator(seed))
    tokens[:, 8:40] = torch.arange(32) % 4
    return tokens


def learnt_model(**changes):
    options = {"contexts": "0 1 2 3 w w1 ws", "sites": 4096, "horizon": 24, "fast_weights": True}
    model = Field(FieldConfig(VOCAB, **(options | changes)))
    model.set_boundaries(torch.arange(VOCAB) < 3)
    for seed in range(3):
        tokens = text(2, 61, seed)
        model.learn_(tokens[:, :-1], tokens[:, 1:], rate=0.05, generator=generator(seed))
    return model


FORMS = [
    {},
    {"horizon": 0},
    {"fast_weights": False},
    {"surprise_mass": False, "coherence_gate": False},
    {"state_dtype": "bf16"},
    {"embedding": "log_phase"},
    {"embedding": "cone", "fast_rule": "delta"},
    {"matrix_rule": "delta", "horizon": 0},
    {"matrix_rule": "oja", "embedding": "cone", "fast_weights": False},
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_logits_are_normalised_and_the_loss_is_their_cross_entropy(form):
    model, tokens = learnt_model(**form), text(2, 50, 7)
    logits, _ = model(tokens[:, :-1])
    torch.testing.assert_close(logits.logsumexp(-1), torch.zeros(2, 49), atol=1e-5, rtol=0)
    expected = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    torch.testing.assert_close(model.loss(tokens[:, :-1], tokens[:, 1:]).total, expected)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_pieces_and_single_steps_give_the_logits_of_the_whole(form):
    model, tokens = learnt_model(**form), text(2, 45, 7)
    whole, _ = model(tokens)
    state, parts = None, []
    for first, last in ((0, 1), (1, 4), (4, 33)):
        logits, state = model(tokens[:, first:last], state)
        parts.append(logits)
    for t in range(33, 45):
        logits, state = model.step(tokens[:, t], state)
        parts.append(logits.unsqueeze(1))
    # Sums of the same pulls in another order; a level of confidence may not turn on their last bits.
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-4, rtol=0)
    from_start, _ = model.step(tokens[:, 0], model.init_state(2))
    torch.testing.assert_close(from_start, whole[:, 0])


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("at", [1, 17, 40])
def test_a_changed_token_changes_no_logits_before_it(form, at):
    model, tokens = learnt_model(**form), text(1, 48, 7)
    changed = tokens.clone()
    changed[:, at:] = (tokens[:, at:] + 1) % VOCAB
    logits, other = model(tokens)[0], model(changed)[0]
    # Products of matrices may be summed in another order where other rows differ.
    torch.testing.assert_close(logits[:, :at], other[:, :at], atol=1e-5, rtol=0)
    assert not torch.allclose(logits[:, at:], other[:, at:], atol=1e-3)


@pytest.mark.parametrize("kind", Kind.__args__)
def test_a_perturbed_field_looks_no_more_ahead(kind):
    model, tokens = learnt_model(perturbation_scale=0.2), text(1, 48, 7)
    changed = tokens.clone()
    changed[:, 20:] = (tokens[:, 20:] + 1) % VOCAB
    readings = [model.read(x, None, kind, generator(1))[0] for x in (tokens, changed)]
    still = model.read(tokens)[0]
    for first, second in zip(*(reading.pulls for reading in readings), strict=True):
        torch.testing.assert_close(first[:, :20], second[:, :20], atol=1e-4, rtol=1e-4)
    for name in ("confidence", "gates"):
        first, second = (getattr(reading, name)[:, :20] for reading in readings)
        assert torch.equal(first, second)
    assert torch.equal(readings[0].pulls[0], still.pulls[0]) == (kind == "none")


@pytest.mark.parametrize("kind", ["levy", "beta"])
def test_forward_perturbs_where_it_is_told_to_and_by_its_generator(kind):
    model, tokens = learnt_model(perturbation_scale=0.2), text(1, 40, 7)
    still, (first, again, other) = (
        model(tokens)[0],
        (model(tokens, perturbation=kind, generator=generator(seed))[0] for seed in (1, 1, 2)),
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, still)
    torch.testing.assert_close(first.logsumexp(-1), torch.zeros(1, 40), atol=1e-5, rtol=0)


def test_a_coherent_field_collapses_to_the_predictor_of_the_largest_weight():
    model, tokens = learnt_model(fast_weights=False), text(2, 48, 7)
    reading, _ = model.read(tokens)
    threshold = float(reading.coherence.median())
    collapsed, _ = model(tokens, collapse=threshold)
    mixed, _ = model(tokens)
    coherent = reading.coherence >= threshold
    assert 0.3 < coherent.float().mean() < 0.8
    assert torch.equal(collapsed[~coherent], mixed[~coherent])
    every = torch.arange(VOCAB).expand(2, 48, VOCAB)
    p = model.crystal.read(reading.phases, every, reading.evidence)
    pull = reading.pulls[0] + 0.02 / VOCAB
    p = torch.cat([p, (pull / pull.sum(-1, keepdim=True)).unsqueeze(-1)], dim=-1)
    chosen = model.mixture(reading.confidence, reading.gates).argmax(-1)
    pure = p.gather(-1, chosen[..., None, None].expand(-1, -1, VOCAB, 1)).squeeze(-1).log()
    torch.testing.assert_close(collapsed[coherent], pure[coherent], atol=1e-5, rtol=1e-5)
    changed = tokens.clone()
    changed[:, 20:] = (tokens[:, 20:] + 1) % VOCAB
    torch.testing.assert_close(
        model(changed, collapse=threshold)[0][:, :20], collapsed[:, :20], atol=1e-5, rtol=0
    )


def test_the_quantile_of_coherence_is_that_of_the_text_learnt_from():
    model, tokens = Field(FieldConfig(VOCAB, sites=1024)), text(4, 61)
    with pytest.raises(ValueError, match="learnt nothing"):
        model.coherence_quantile(0.5)
    model.learn_(tokens[:, :-1], tokens[:, 1:], rate=0.05)
    coherence = model.read(tokens[:, :-1])[0].coherence.flatten()
    for share in (0.1, 0.5, 0.91, 1.0):
        threshold = model.coherence_quantile(share)
        assert (coherence < threshold).float().mean() >= share
        assert (coherence < threshold - 0.001).float().mean() < share
    for share in (0.0, 1.1):
        with pytest.raises(ValueError, match="share is"):
            model.coherence_quantile(share)


def test_evaluation_is_unperturbed():
    noisy, still = (
        Field(FieldConfig(VOCAB, sites=1024, perturbation_schedule=schedule))
        for schedule in ('{"0": "levy"}', "{}")
    )
    tokens = text(1, 44)
    assert torch.equal(noisy(tokens)[0], still(tokens)[0])


def test_learning_builds_no_graph_and_nothing_requires_a_gradient():
    model, tokens = Field(FieldConfig(VOCAB, sites=1024, fast_weights=True)), text(2, 40)

    def refuse(tensor):
        raise AssertionError("a graph saved a tensor")

    # Grad mode is on here, so any graph would be built, and would save something.
    with torch.autograd.graph.saved_tensors_hooks(refuse, refuse):
        loss = model.learn_(
            tokens[:, :-1], tokens[:, 1:], rate=0.05, perturbation="levy", generator=generator()
        )
    assert list(model.parameters()) == []
    assert loss.total.grad_fn is None
    assert not any(tensor.requires_grad for tensor in (loss.total, *model.buffers()))


def test_weights_learnt_in_inference_mode_stay_usable_outside_it():
    model, tokens = Field(FieldConfig(VOCAB, sites=1024)), text(2, 40)
    with torch.inference_mode():
        model.learn_(tokens[:, :-1], tokens[:, 1:], rate=0.05, generator=generator())
    scale = torch.ones((), requires_grad=True)
    assert not any(buffer.is_inference() for buffer in model.buffers())
    (scale * model.mixture.by_gate).sum().backward()
    assert scale.grad == model.mixture.by_gate.sum()


def test_learning_is_determined_by_its_seed():
    first, second = learnt_model(state_dtype="bf16"), learnt_model(state_dtype="bf16")
    for name, buffer in first.state_dict().items():
        assert torch.equal(buffer, second.state_dict()[name]), name


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_the_model_learns_in_every_state_dtype(dtype):
    model = Field(FieldConfig(VOCAB, "0 1 2 3", 4096, horizon=0, state_dtype=dtype))
    tokens = (torch.arange(4 * 301) * 7 % 23 % VOCAB).view(4, 301)
    losses = [
        model.learn_(
            tokens[:, first:-1][:, :60], tokens[:, first + 1 :][:, :60], rate=0.05, generator=generator()
        )
        for first in range(0, 240, 60)
    ]
    assert losses[0].total > 1.5  # ln 11 = 2.4 before anything is known
    assert losses[-1].total < 0.5


@pytest.mark.parametrize("rule", ["hebb", "delta", "oja"])
def test_the_dense_crystals_predictor_learns_and_is_saved(rule):
    model, tokens = learnt_model(matrix_rule=rule), text(2, 61, 0)

    def read_out():
        p = model.read(tokens[:, :-1])[0].pulls[-1] / 8
        torch.testing.assert_close(p.sum(-1), torch.ones(2, 60))
        return float(p.gather(-1, tokens[:, 1:, None]).log().mean())

    before, weight = read_out(), model.readout.crystal.weight.clone()
    for _ in range(10):
        model.learn_(tokens[:, :-1], tokens[:, 1:], rate=0.1)
    assert read_out() > before + 0.1
    assert not torch.equal(model.readout.crystal.weight, weight)
    assert float(torch.linalg.matrix_norm(model.readout.crystal.weight, 2)) < 1.6  # the bound 1.5, nearly
    again = Field(model.config)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(tokens)[0], model(tokens)[0])
    # One token at a time teaches it as well.
    weight = model.readout.crystal.weight.clone()
    model.learn_(tokens[:, :1], tokens[:, 1:2], rate=0.1)
    assert not torch.equal(model.readout.crystal.weight, weight)


def test_learning_raises_the_probability_of_what_was_said():
    model, said = learnt_model(), torch.tensor([[4, 9, 6, 10, 5, 7]])
    before = model.loss(said[:, :-1], said[:, 1:]).total
    for _ in range(3):
        model.learn_(said[:, :-1], said[:, 1:], rate=0.0)
    assert model.loss(said[:, :-1], said[:, 1:]).total < before - 1


def test_what_is_forgotten_was_never_said():
    model, said = learnt_model(), text(2, 50, 9)
    other = text(1, 40, 10)
    before, _ = model(other)
    model.learn_(said[:, :-1], said[:, 1:], rate=0.0)
    assert not torch.equal(model(other)[0], before)
    model.forget_(said[:, :-1], said[:, 1:])
    assert torch.equal(model(other)[0], before)


@pytest.mark.parametrize("form", [{}, {"matrix_rule": "delta", "fast_weights": False}], ids=str)
def test_a_merged_model_knows_both_texts(form):
    (one, two), asked = (learnt_model(**form) for _ in range(2)), [text(2, 61, seed) for seed in (20, 21)]
    for model, said in zip((one, two), asked, strict=True):
        model.learn_(said[:, :-1], said[:, 1:], rate=0.05)
    before = [
        model.loss(said[:, :-1], said[:, 1:]).total for model, said in zip((two, one), asked, strict=True)
    ]
    weights, learnt = (one.mixture.by_gate.clone(), two.mixture.by_gate.clone()), one.coherences.clone()
    one.merge_(two)
    for said, alone in zip(asked, before, strict=True):
        assert one.loss(said[:, :-1], said[:, 1:]).total < alone - 0.5
    # Both learnt from as many tokens.
    torch.testing.assert_close(one.mixture.by_gate, (weights[0] + weights[1]) / 2)
    assert torch.equal(one.coherences, learnt + two.coherences)


@pytest.mark.parametrize("changes", [{"horizon": 25}, {"contexts": "0 1"}, {"state_dtype": "bf16"}], ids=str)
def test_models_that_are_not_alike_are_not_merged(changes):
    with pytest.raises(ValueError, match=f"other has {next(iter(changes))}"):
        learnt_model().merge_(learnt_model(**changes))
    other = learnt_model()
    other.set_boundaries(torch.arange(VOCAB) < 4)
    with pytest.raises(ValueError, match="between words"):
        learnt_model().merge_(other)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"sites": 1000}, "sites"),
        ({"contexts": "1 2"}, "contexts"),
        ({"contexts": "0 x"}, "context"),
        ({"horizon": -1}, "horizon"),
        ({"order_width": 7}, "order_width"),
        ({"vocab_size": 50257}, "vocab_size"),
        ({"perturbation_schedule": "beta"}, "perturbation schedule"),
    ],
)
def test_what_cannot_be_is_refused_by_name(changes, named):
    with pytest.raises(ValueError, match=named):
        Field(FieldConfig(**({"vocab_size": VOCAB} | changes)))
