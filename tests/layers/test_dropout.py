"""Dropout drops as many numbers as it says, each on its own, and keeps the mean."""

import math

import pytest
import torch

from phasefield.layers.dropout import Dropout, dropout

COUNT = 200_000


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("p", [0.03, 0.2, 0.9])
def test_a_share_of_p_is_dropped_and_the_rest_made_larger(p, dtype):
    torch.manual_seed(0)
    x = torch.full((COUNT,), 1.0, dtype=dtype, requires_grad=True)
    y = dropout(x, p)
    assert y.dtype == dtype
    expected = torch.tensor([0, 1 / (1 - p)], dtype=torch.float64).to(dtype)
    assert torch.equal(y.detach().unique(), expected)
    # Five standard deviations of a binomial share.
    assert (y == 0).double().mean() == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / COUNT))
    y.sum().backward()
    assert torch.equal(x.grad, y)  # each is 0 or 1/(1 − p), as x is 1


def test_numbers_are_dropped_independently_of_their_neighbours():
    torch.manual_seed(0)
    dropped = (dropout(torch.ones(400, 500), 0.5) == 0).double() - 0.5
    for distance in (1, 2, 4, 8, 500):
        both = dropped.flatten()[:-distance] * dropped.flatten()[distance:]
        # Products of two fair signs / 4: five standard deviations of their mean.
        assert abs(both.mean()) < 5 * 0.25 / math.sqrt(both.numel())


def test_a_seed_tells_what_is_dropped_and_evaluation_drops_nothing():
    layer, x = Dropout(0.4), torch.randn(30, 7)
    torch.manual_seed(3)
    first, second = layer(x), layer(x)
    torch.manual_seed(3)
    assert torch.equal(first, layer(x))
    assert not torch.equal(first, second)
    assert layer.eval()(x) is x
    assert dropout(x, 0.0) is x
