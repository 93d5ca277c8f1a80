"""Affixes turn roots; heads predict each."""

import pytest
import torch
from torch.nn import functional as F

from phasefield.data import MorphologicalTokenizer
from phasefield.layers import CayleyRotation, MorphologicalEmbedding, MorphologicalHeads


@pytest.fixture
def embedding():
    torch.manual_seed(0)
    return MorphologicalEmbedding(11, 3, 5, 7, affix_std=0.8).double()


def test_the_affix_that_is_none_is_the_identity_and_stays_so(embedding):
    rows = torch.tensor([[0, 4, 0], [0, 11, 0]])
    assert torch.equal(embedding(rows), embedding.base(rows[:, 1]))
    rows = torch.tensor([[0, 4, 2], [1, 11, 0]])
    embedding(rows).sum().backward()
    for affix in (embedding.prefix, embedding.suffix):
        assert not affix.weight.grad[0].any()
        assert affix.weight.grad.any()


def test_affixes_turn_the_root_as_cayley_rotations_one_after_the_other(embedding):
    row = torch.tensor([2, 6, 5])
    z = embedding.base(row[1])
    for affix in (embedding.prefix.weight[2], embedding.suffix.weight[5]):
        rotation = CayleyRotation(7).double()
        rotation.a.data = affix.detach()
        z = rotation(z)
    # Products of a few numbers of size 1, in float64.
    torch.testing.assert_close(embedding(row), z, rtol=1e-13, atol=1e-15)


def test_affixes_leave_lengths_as_they_are(embedding):
    rows = torch.stack([torch.randint(n, (2, 9)) for n in (4, 12, 6)], dim=-1)
    assert embedding(rows).shape == (2, 9, 7, 2)
    lengths = embedding.base(rows[..., 1]).norm(dim=-1)
    torch.testing.assert_close(embedding(rows).norm(dim=-1), lengths, rtol=1e-13, atol=1e-15)


def test_the_loss_is_the_roots_and_a_share_of_the_affixes():
    torch.manual_seed(1)
    heads = MorphologicalHeads(11, 3, 5, 7).double()
    x = torch.randn(2, 9, 7, 2, dtype=torch.float64)
    rows = torch.stack([torch.randint(n, (2, 9)) for n in (4, 12, 6)], dim=-1)
    total, terms = heads.loss(x, rows)
    prefix, base, suffix = (
        F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        for logits, targets in zip(heads(x), rows.unbind(-1), strict=True)
    )
    torch.testing.assert_close(total, base + 0.3 * (prefix + suffix), rtol=1e-12, atol=0)
    for name, value in (("prefix", prefix), ("base", base), ("suffix", suffix)):
        torch.testing.assert_close(terms[name], value, rtol=1e-12, atol=0)


def test_it_is_trained_on_a_tokenizers_rows():
    torch.manual_seed(2)
    tokenizer = MorphologicalTokenizer.train(
        " walk walked walking talk talked talking bark barked barking" * 9
    )
    sizes = tokenizer.vocabulary.sizes
    embedding, heads = MorphologicalEmbedding(*sizes, 16), MorphologicalHeads(*sizes, 16)
    rows = tokenizer.structure(tokenizer.encode(" walked talking barked walking talked barking" * 3))
    assert len(rows) == 18
    parameters = [*embedding.parameters(), *heads.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.02)
    losses = []
    for _ in range(60):
        total, _ = heads.loss(embedding(rows[:-1]), rows[1:])
        losses.append(total.item())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert losses[-1] < 0.2 * losses[0]  # each word has one follower


def test_sizes_below_zero_are_refused():
    with pytest.raises(ValueError, match="prefixes and suffixes are -1 and 2; neither may be below 0"):
        MorphologicalEmbedding(4, -1, 2, 8)
