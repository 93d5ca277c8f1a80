from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch

from phasefield.training.carried import detached, from_named_tensors, named_tensors

Pair = namedtuple("Pair", "a b")


@dataclass
class Cache:
    conv: torch.Tensor
    layers: tuple
    nothing: None = None


def state(fill):
    x = torch.full((2, 3), float(fill))
    return [x, Cache(x + 1, ((x + 2,), Pair(x + 3, None)))]


def test_a_state_is_taken_apart_by_place_and_rebuilt():
    tensors = named_tensors(state(5))
    assert list(tensors) == ["0", "1.conv", "1.layers.0.0", "1.layers.1.0"]
    again = from_named_tensors(state(0), tensors)
    assert isinstance(again, list)
    assert isinstance(again[1], Cache)
    assert isinstance(again[1].layers[1], Pair)
    assert again[1].layers[1].b is None
    assert again[1].nothing is None
    assert all(
        one.equal(two) for one, two in zip(named_tensors(again).values(), tensors.values(), strict=True)
    )


def test_a_tensor_alone_keeps_the_name_it_has_in_older_checkpoints():
    x = torch.ones(3)
    assert list(named_tensors(x)) == ["state"]
    assert from_named_tensors(torch.zeros(3), {"state": x}) is x


def test_a_detached_state_has_the_numbers_and_no_graph():
    x = torch.ones(2, requires_grad=True)
    carried = detached(Cache(x * 2, (x * 3, None)))
    assert not any(tensor.requires_grad for tensor in named_tensors(carried).values())
    assert carried.conv.equal(x * 2)
    assert carried.layers[1] is None


def test_other_places_than_the_models_are_refused():
    with pytest.raises(ValueError, match=r"1\.conv"):
        from_named_tensors(state(0), {"0": torch.ones(1)})


def test_what_cannot_be_saved_is_named():
    with pytest.raises(TypeError, match=r"has a int at 1\.0"):
        named_tensors((torch.ones(1), [3]))
