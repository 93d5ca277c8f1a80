"""Long texts through a phase-field model: in pieces as in one, in the memory of a piece."""

import pytest
import torch
from torch.nn import functional as F

from benchmarks.memory import peak_bytes
from phasefield.models.phase_field import PhaseField, PhaseFieldConfig
from phasefield.training import evaluate

VOCAB = 11
EVERY_STATE = dict(
    dim=8,
    num_layers=2,
    banks="context,language,morphology,orthography",
    memories={
        "slots": {"type": "slots", "slots": 9},
        "matrix": {"type": "matrix", "heads": 2},
        "episodic": {"type": "episodic", "heads": 2, "window": 5},
    },
)


def built(**fields):
    torch.manual_seed(0)
    model = PhaseField(PhaseFieldConfig(VOCAB, **{**EVERY_STATE, **fields})).eval()
    with torch.no_grad():
        model.embedding.weight.mul_(20)
    return model


def text(length):
    return torch.randint(VOCAB, (length,), generator=torch.Generator().manual_seed(1))


def test_a_stream_is_evaluated_as_one_pass_over_the_whole():
    model, ids = built(), text(700)
    with torch.no_grad():
        logits, _ = model(ids[None, :-1])
    expected = F.cross_entropy(logits[0], ids[1:]).item()
    # Means of 699 float32 numbers, in another order.
    assert evaluate(model, ids, 1, 64, stateful=True).terms["content"] == pytest.approx(expected, rel=1e-5)
    assert evaluate(model, ids, 1, 64).terms["content"] != pytest.approx(expected, rel=1e-4)


def test_evaluation_of_a_stream_takes_the_memory_of_a_window_however_long_it_is():
    model = built()
    short, long = (
        peak_bytes(lambda n=n: evaluate(model, text(n), 1, 64, stateful=True), "cpu") for n in (257, 4097)
    )
    # The text itself, and its copies: int64 ids.
    assert long - short < 4 * 8 * (4097 - 257)
    assert long < 2 * peak_bytes(lambda: evaluate(model, text(65), 1, 64), "cpu") + 4 * 8 * 4097


def test_gradients_end_where_a_batch_begins_and_the_state_goes_on():
    model, ids = built().train(), text(41)
    first = model.loss(ids[None, :20], ids[None, 1:21])
    carried = first.state.detach()
    second = model.loss(ids[None, 20:40], ids[None, 21:41], carried)
    second.total.backward()
    mine = model.backbone.blocks[0].recurrence.angle.grad.clone()
    model.zero_grad()
    model.loss(ids[None, 20:40], ids[None, 21:41]).total.backward()
    assert not mine.equal(model.backbone.blocks[0].recurrence.angle.grad)
    with torch.no_grad():
        whole, _ = model.eval()(ids[None, :40])
        last = F.cross_entropy(whole[0, 20:], ids[21:41])
    torch.testing.assert_close(second.terms["content"], last)


def test_the_models_own_generation_writes_what_its_logits_say():
    model, prompt = built(sampler="greedy"), text(30)[None]
    written = torch.stack(list(model.generate(prompt, 12)), 1)
    with torch.no_grad():
        logits, _ = model(torch.cat([prompt, written], 1))
    assert written.equal(logits[:, 29:-1].argmax(-1))
