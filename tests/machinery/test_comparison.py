"""The comparison with the oracle finds what is wrong, wherever it is, and passes what is right."""

import pytest
import torch

from tests.machinery.comparison import assert_agrees_with_reference, relative_error


def running_sum(x, scale, state=None, *, backend, fault=None):
    """``h_t = h_{t-1} + scale · x_t``; ``fault`` says what the torch backend gets wrong."""
    wide = x.double() if x.dtype == torch.float64 else x.float()
    h = (wide * scale).cumsum(1) + (0 if state is None else state.unsqueeze(1))
    if backend == "torch":
        if fault == "value":
            h = h * 1.01
        elif fault == "NaN":
            h = h.index_fill(1, torch.tensor([2]), float("nan"))
        elif fault == "state gradient":
            h = h - state.unsqueeze(1) + state.detach().unsqueeze(1)
        elif fault == "parameter gradient":
            h = h + 0.01 * ((scale - scale.detach()) * wide)
    final = h[:, -1]
    if backend == "torch" and fault == "gradient through the final state":
        final = final.detach() + 0 * final
    if backend == "torch" and fault == "shape":
        h = h[:, :-1]
    return h.to(x.dtype), final


def check(fault=None, dtype=torch.float32, tolerance=1e-5, state=True):
    generator = torch.Generator().manual_seed(0)
    assert_agrees_with_reference(
        running_sum,
        {
            "x": torch.randn(2, 5, 3, generator=generator),
            "scale": torch.rand(3, generator=generator),
            "state": torch.randn(2, 3, generator=generator) if state else None,
        },
        backend="torch",
        dtype=dtype,
        by_dtype=("x",),
        tolerance={"default": tolerance},
        **({"fault": fault} if fault else {}),
    )


@pytest.mark.parametrize("state", [True, False])
def test_what_is_right_passes(state):
    check(state=state)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("value", r"out0: error 1.00e-02, allowed 1.00e-05, worst at \(\d, \d, \d\): "),
        ("NaN", r"out0: error nan, allowed 1.00e-05, worst at \(0, 2, 0\): nan"),
        ("state gradient", "grad state"),
        ("parameter gradient", "grad scale"),
        ("gradient through the final state", "grad x.*grad scale.*grad state"),
        ("shape", "out0 has shape"),
    ],
)
def test_what_is_wrong_is_named(fault, message):
    with pytest.raises(AssertionError, match=message):
        check(fault)


def test_only_what_is_wrong_is_named():
    with pytest.raises(AssertionError) as caught:
        check("state gradient")
    assert str(caught.value).startswith("torch in torch.float32 (seed 0): grad state: ")
    assert "out" not in str(caught.value).split("(seed 0)")[1]


def test_rounding_the_inputs_is_not_counted_as_an_error():
    # In bfloat16 the output is rounded once (2^-9) and so is x's gradient; rounding x before costs nothing.
    check(dtype=torch.bfloat16, tolerance=2**-8)
    with pytest.raises(AssertionError, match="out0"):
        check(dtype=torch.bfloat16, tolerance=2**-12)


def test_the_error_is_relative_to_the_largest_value():
    assert relative_error(torch.tensor([1.0, 11.0]), torch.tensor([1.0, 10.0])) == pytest.approx(0.1)
    assert relative_error(torch.tensor([]), torch.tensor([])) == 0
    assert not relative_error(torch.tensor([torch.nan]), torch.tensor([1.0])) <= 1
    assert not relative_error(torch.tensor([1.0]), torch.tensor([torch.nan])) <= 1
    assert relative_error(torch.zeros(2), torch.zeros(2)) == 0
    assert relative_error(torch.ones(2), torch.zeros(2)) > 1e300
