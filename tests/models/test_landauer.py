"""The Landauer model: its loss and its decoding (its training: tests/training/test_loop.py)."""

import pytest
import torch
from torch.nn import functional as F

from phasefield.models import MODELS, Landauer, LandauerConfig

CELLS = ("aperiodic", "lru")


def build(cell, **changes):
    torch.manual_seed(0)
    return Landauer(LandauerConfig(11, embed_dim=5, hidden_dim=12, cell=cell, dropout=0.0, **changes))


@pytest.mark.parametrize("cell", CELLS)
def test_the_loss_is_cross_entropy_plus_weighted_energy(cell):
    model = build(cell, energy_weight=0.3)
    tokens, targets = torch.randint(11, (3, 8)), torch.randint(11, (3, 8))
    loss = model.loss(tokens, targets)
    logits, state = model(tokens)
    torch.testing.assert_close(
        loss.terms["content"], F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    )
    torch.testing.assert_close(loss.total, loss.terms["content"] + 0.3 * loss.terms["energy"])
    torch.testing.assert_close(loss.state, state)
    assert loss.terms["energy"] > 0
    loss.total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("cell", CELLS)
def test_projecting_the_vocabulary_first_changes_nothing(cell):
    # Fewer tokens than symbols take the other path: the same tokens, one by one.
    model = build(cell)
    tokens = torch.randint(11, (2, 8))
    whole, final = model(tokens)
    state = None
    for t in range(8):
        logits, state = model(tokens[:, t : t + 1], state)
        torch.testing.assert_close(logits[:, 0], whole[:, t])
    torch.testing.assert_close(state, final)


@pytest.mark.parametrize("cell", CELLS)
def test_decoding_step_by_step_gives_the_logits_of_the_whole(cell):
    model = build(cell)
    tokens = torch.randint(11, (2, 9))
    with torch.no_grad():
        whole, final = model(tokens)
        state = model.init_state(2)
        for t in range(9):
            logits, state = model.step(tokens[:, t], state)
            torch.testing.assert_close(logits, whole[:, t])
    torch.testing.assert_close(state, final)


def test_an_unknown_cell_is_refused():
    with pytest.raises(ValueError, match="cell is 'gru'; it must be 'aperiodic' or 'lru'"):
        build("gru")


def test_every_registered_config_begins_with_the_vocabulary():
    for entry in MODELS.values():
        assert next(iter(entry.config_class.__dataclass_fields__)) == "vocab_size"
