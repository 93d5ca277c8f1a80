"""What the commands ask of every registered model, whatever it is."""

import copy
import io
import pickle
from dataclasses import fields

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from phasefield.models import MODELS, ModelLoss

SMALL = {
    "embed_dim": 8,
    "hidden_dim": 16,
    "num_layers": 2,
    "num_heads": 2,
    "block_size": 12,
    "diffusion_steps": 8,
    "bound_samples": 4,
    "dropout": 0.0,
    "sites": 1024,
}


def build(name):
    torch.manual_seed(0)
    entry = MODELS[name]
    known = {field.name for field in fields(entry.config_class)}
    config = entry.config_class(11, **{field: value for field, value in SMALL.items() if field in known})
    return entry.model_class(config)


def batch(rows=5):
    torch.manual_seed(1)
    text = torch.randint(11, (rows, 13))
    return text[:, :-1], text[:, 1:]


def evaluated(model, tokens, targets):
    with torch.no_grad():
        loss = model.eval().loss(tokens, targets)
    return torch.stack([loss.total, *loss.terms.values()]).double()


each_model = pytest.mark.parametrize("name", MODELS)


@each_model
def test_every_size_is_a_config(name):
    entry = MODELS[name]
    for size in entry.sizes.values():
        entry.config_class(65, **size)


@each_model
def test_evaluation_gives_the_same_loss_again_and_leaves_the_generator_alone(name):
    model, (tokens, targets) = build(name), batch()
    before = torch.get_rng_state()
    once, again = (evaluated(model, tokens, targets) for _ in range(2))
    assert once.equal(again)
    assert torch.get_rng_state().equal(before)


@each_model
def test_the_evaluation_of_a_batch_is_the_mean_of_its_rows(name):
    model = build(name).double()
    tokens, targets = batch()
    rows = [evaluated(model, tokens[row : row + 1], targets[row : row + 1]) for row in range(len(tokens))]
    # Sums of logits in float32: its rounding.
    torch.testing.assert_close(
        torch.stack(rows).mean(0), evaluated(model, tokens, targets), rtol=1e-6, atol=0
    )


@each_model
def test_copies_give_the_same_loss(name):
    model = build(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    expected = evaluated(model, *batch())
    assert evaluated(copy.deepcopy(model), *batch()).equal(expected)
    assert evaluated(pickle.loads(pickle.dumps(model)), *batch()).equal(expected)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    loaded = MODELS[name].model_class(model.config)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    assert evaluated(loaded, *batch()).equal(expected)


@pytest.mark.parametrize("name", [name for name, entry in MODELS.items() if not entry.local])
def test_training_in_bfloat16_gives_every_weight_the_gradient_that_float32_gives(name):
    gradients = []
    for enabled in (False, True):
        model = build(name).train()
        tokens, targets = batch(32)
        torch.manual_seed(2)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = model.loss(tokens, targets)
        assert isinstance(loss, ModelLoss)
        assert "content" in loss.terms
        loss.total.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    exact, rounded = gradients
    # Rounding of 2^-8 through some twenty products, relative to the largest gradient of a weight; where
    # rounding is all there is (softmax does not see a key's bias), relative to the largest of all.
    largest = max(gradient.abs().max() for gradient in exact.values())
    for weight, gradient in exact.items():
        error = (gradient - rounded[weight]).abs().max()
        assert error < 0.15 * gradient.abs().max() + 1e-2 * largest, weight
        assert gradient.any() == rounded[weight].any(), weight


@pytest.mark.parametrize("name", [name for name, entry in MODELS.items() if entry.causal])
def test_a_causal_models_logits_do_not_see_what_comes_later(name):
    model = build(name).eval()
    tokens, _ = batch()
    with torch.no_grad():
        logits, _ = model(tokens)
        for t in (1, 5, 11):
            changed = tokens.clone()
            changed[:, t:] = (changed[:, t:] + 1 + torch.arange(12 - t)) % 11
            torch.testing.assert_close(model(changed)[0][:, :t], logits[:, :t], rtol=0, atol=0)
            assert not model(changed)[0][:, t].equal(logits[:, t])


@pytest.mark.parametrize("name", [name for name, entry in MODELS.items() if not entry.causal])
@pytest.mark.parametrize("length", [0, 1, 7, 30])
def test_a_completion_has_the_length_asked_for(name, length):
    model = build(name).eval()
    for prompt in (
        torch.randint(11, (2, 3)),
        torch.randint(11, (2, 40)),
        torch.empty(2, 0, dtype=torch.long),
    ):
        before = prompt.clone()
        drawn = [
            model.complete(prompt, length, top_k=5, generator=torch.Generator().manual_seed(seed))
            for seed in (3, 3)
        ]
        assert drawn[0].shape == (2, length)
        assert ((drawn[0] >= 0) & (drawn[0] < 11)).all()
        assert drawn[0].equal(drawn[1])
        assert prompt.equal(before)


@pytest.mark.parametrize("name", [name for name, entry in MODELS.items() if not entry.causal])
def test_completing_refuses_what_makes_no_sense(name):
    model = build(name).eval()
    prompt = torch.zeros(1, 2, dtype=torch.long)
    for arguments, message in (
        ({"length": -1}, "length is -1; it must be at least 0"),
        ({"length": 2, "temperature": -1.0}, "temperature is -1.0; it must be at least 0"),
        ({"length": 2, "top_k": -2}, "top_k is -2; it must be at least 0"),
        ({"length": 2, "top_p": 0.0}, "top_p is 0.0; it must be above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            model.complete(prompt, **arguments)
    with pytest.raises(ValueError, match=r"prompt has shape \[2\]; allowed is \[B, T\]"):
        model.complete(prompt[0], 2)


@pytest.mark.parametrize(
    "name", [name for name in MODELS if hasattr(MODELS[name].model_class, "training_flops_per_token")]
)
def test_the_stated_operations_of_training_are_those_that_torch_counts(name):
    model, (tokens, targets) = build(name).train(), batch()
    counts = set()
    for seed in range(20):  # each number of passes, with and without self-conditioning, is equally likely
        torch.manual_seed(seed)
        with FlopCounterMode(display=False) as counter:
            model.loss(tokens, targets).total.backward()
        by_op = counter.get_flop_counts()["Global"]
        counts.add(sum(flops for op, flops in by_op.items() if "attention" not in str(op)) / targets.numel())
    # Biases and norms, which are counted as weights, are some percent of a model as small as this.
    counted = sum(counts) / len(counts)
    assert len(counts) > 1
    assert model.training_flops_per_token(tokens.shape[1]) == pytest.approx(counted, rel=0.1)
