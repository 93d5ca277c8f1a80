"""Looking into a phase-field model: each number against the model's own, the files, every kind of part."""

import json

import pytest
import torch
from PIL import Image

from phasefield.analysis import phase_field as analysis
from phasefield.analysis.phase_field import analyze, find_needles, observe
from phasefield.data import CharTokenizer
from phasefield.errors import UserError
from phasefield.models.phase_field import PhaseField, PhaseFieldConfig

TEXT = "to be or not to be$\n"
LENGTHS = (8, 30)


@pytest.fixture
def tokenizer():
    return CharTokenizer.from_text(TEXT)


def built(tokenizer, **fields):
    torch.manual_seed(0)
    parts = {
        "banks": {"context": {"type": "context"}, "semantic": {"type": "semantic", "concepts": 5}},
        "memories": {"slots": {"type": "slots", "slots": 9}, "fast": {"type": "matrix", "heads": 2}},
    }
    config = PhaseFieldConfig(tokenizer.vocab_size, **{"dim": 8, "num_layers": 2, **parts, **fields})
    model = PhaseField(config).double().eval()
    with torch.no_grad():
        model.embedding.weight.mul_(20)
    return model


def test_what_parts_are_worth_is_the_loss_without_them(tokenizer):
    model = built(tokenizer)
    seen = observe(model, tokenizer, TEXT, LENGTHS)
    tokens = tokenizer.encode(TEXT).unsqueeze(0)
    nats = model.loss(tokens[:, :-1], tokens[:, 1:]).terms["content"].item()
    assert seen.nats == pytest.approx(nats)
    with torch.no_grad():
        model.memory_scales["fast"].zero_()
    without = model.loss(tokens[:, :-1], tokens[:, 1:]).terms["content"].item()
    assert seen.without["memories.fast"] == pytest.approx(without - nats)
    assert list(seen.without) == ["banks.context", "banks.semantic", "memories.slots", "memories.fast"]
    assert sum(seen.energy.values()) == pytest.approx(1)
    assert not any(module._forward_hooks for module in model.modules())


def test_what_states_hold_is_how_much_of_them_goes_with_a_token(tokenizer):
    model = built(tokenizer, num_layers=1)
    seen = observe(model, tokenizer, TEXT, LENGTHS)
    recurrence = model.backbone.blocks[0].recurrence
    given = []
    recurrence.register_forward_hook(lambda module, arguments, output: given.append((arguments, output)))
    tokens = tokenizer.encode(TEXT).unsqueeze(0)
    model.stream(tokens)
    (v, u, _), (_, final) = given[0]
    missing = []
    for place in range(v.shape[1]):
        others = v.clone()
        others[:, place] = 0
        missing.append((final - recurrence(others, u, None)[1]).square().sum(-1).sqrt()[0])
    share = torch.stack(missing) / torch.stack(missing).sum(0)
    torch.testing.assert_close(seen.held[0], share.mean(1).detach())


@pytest.mark.parametrize("backbone", ["oscillatory", "linoss"])
def test_lifetimes_are_those_of_the_states(tokenizer, backbone):
    model = built(tokenizer, num_layers=1, backbone=backbone)
    recurrence = model.backbone.blocks[0].recurrence
    lifetimes = observe(model, tokenizer, TEXT, LENGTHS).lifetimes[0]
    if backbone == "oscillatory":
        with torch.no_grad():
            recurrence.gate.weight.zero_()  # then the same for every token
        lifetimes = observe(model, tokenizer, TEXT, LENGTHS).lifetimes[0]
    state = torch.randn_like(recurrence.init_state(1))
    zeros = torch.zeros(1, 4000, recurrence.state_dim, 2, dtype=torch.float64)
    u = torch.zeros(1, 4000, 8, 2, dtype=torch.float64)
    h, _ = recurrence(zeros, u, state)
    # Beats of the two eigenvectors average out over many tokens.
    lengths = h[0].square().sum(-1).sqrt().log()
    slope = (lengths[1500:2000].mean(0) - lengths[500:1000].mean(0)) / 1000
    slow = lifetimes > 30  # others have become rounding by then
    assert slow.any()
    torch.testing.assert_close(-1 / slope[slow], lifetimes[slow], rtol=0.02, atol=0)


def test_a_matrix_memory_without_decay_keeps_what_was_written_by_orthogonal_keys(tokenizer):
    model = built(tokenizer, dim=64, num_layers=1)
    memory = model.memories["fast"]
    with torch.no_grad():
        memory.control.weight.zero_()
        control = memory.control.bias.view(2, 7)
        control[:, 0] = 40  # β = 1
        control[:, 1:3] = -40  # no decay
    seen = observe(model, tokenizer, TEXT, LENGTHS)
    assert seen.distances == [0, 1, 2, 4, 8, 16]
    # Right after it is written, β = 1 makes a key read its value exactly; then others come between.
    assert seen.retrieval["fast"][0] == pytest.approx(1)
    assert 0.5 < seen.retrieval["fast"][1] < 1
    assert seen.remembered["fast"][-1] == pytest.approx(1)
    assert seen.remembered["fast"].shape == (len(TEXT),)


class Copier(torch.nn.Module):
    """Says the first ``memory`` tokens it read again after their cue, for ``lasting`` tokens."""

    def __init__(self, vocabulary, memory, lasting):
        super().__init__()
        self.vocabulary, self.memory, self.lasting = vocabulary, memory, lasting

    def forward(self, tokens, state=None):
        first, age = (tokens[:, : self.memory], torch.zeros(len(tokens))) if state is None else state
        logits = torch.zeros(*tokens.shape, self.vocabulary)
        if state is not None and age[0] < self.lasting:
            size = min(tokens.shape[1], self.memory - 1)
            logits[:, :size].scatter_(2, first[:, 1 : size + 1, None], 9.0)
        return logits, (first, age + tokens.shape[1])


def test_needles_are_found_as_long_as_the_model_remembers():
    haystack = torch.arange(50)
    near, far = find_needles(Copier(50, 16, 100), haystack, (64, 5000))
    assert (near.accuracy, far.accuracy) == (1, pytest.approx(0, abs=0.15))
    # The right answer's logit is 9 after the own needle, and nearly always 0 after another's.
    assert near.gain == pytest.approx(9, abs=0.6)
    assert far.gain == 0


def test_needles_of_a_model_are_those_of_its_whole_texts(tokenizer):
    model = built(tokenizer)
    haystack = tokenizer.encode(TEXT)
    (found,) = find_needles(model, haystack, (1500,), needles=2, tokens=6)
    vocabulary = haystack.unique()
    drawn = torch.randint(len(vocabulary), (2, 6), generator=torch.Generator().manual_seed(0))
    needle = vocabulary[drawn]
    hay = haystack.repeat(75).expand(2, -1)
    values = []
    with torch.no_grad():
        for first in (needle, needle.flip(0)):
            logits, _ = model(torch.cat([first, hay, needle[:, :-1]], 1))
            p = logits[:, -3:].log_softmax(-1).gather(-1, needle[:, 3:, None])
            values.append(p.mean().item())
    assert found.gain == pytest.approx(values[0] - values[1], abs=1e-6)  # read in float32 at the end


@pytest.mark.parametrize("fields", [{}, {"backbone": "mamba", "memories": "none"}, {"variant": "original"}])
def test_the_picture_and_the_numbers_lie_beside_each_other(tokenizer, fields, tmp_path, monkeypatch):
    monkeypatch.setattr(analysis, "NEEDLE_LENGTHS", LENGTHS)
    model = built(tokenizer, **fields).float()
    numbers = analyze(model, tokenizer, TEXT, tmp_path / "it.png")
    assert numbers["tokens"] == len(TEXT)
    assert json.loads((tmp_path / "it.json").read_text()) == numbers
    assert [needle["length"] for needle in numbers["needles"]] == [8, 30]
    with Image.open(tmp_path / "it.png") as picture:
        assert picture.size == (1600, 950)
        assert len(set(picture.convert("RGB").get_flattened_data())) > 100


def test_a_text_too_short_to_look_back_on_is_refused(tokenizer):
    with pytest.raises(UserError, match="the text 'to ' has 3 tokens; it needs at least 4"):
        observe(built(tokenizer), tokenizer, "to ")
