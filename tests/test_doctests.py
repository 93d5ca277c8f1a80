"""Each part of the field model validates itself by the example in its own documentation."""

import doctest
import importlib

import pytest

LAYERS = "coherence contexts crystal evolution golden gravity local mixture state_readout perturbation sites"
MODULES = [
    *(f"layers.{name}" for name in LAYERS.split()),
    "models.field.model",
    "training.passes",
    "data.pieces",
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_are_right(name):
    result = doctest.testmod(importlib.import_module(f"phasefield.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
