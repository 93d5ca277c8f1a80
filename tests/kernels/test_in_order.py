"""addcmul_in_order_, on which the torch forms' recurrences rest."""

import pytest
import torch

from phasefield_kernels.in_order import addcmul_in_order_


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
@pytest.mark.parametrize("lanes", [3, 40_000])  # with 40,000 numbers torch uses every thread it has
def test_every_step_reads_what_the_step_before_wrote(dtype, lanes):
    steps = 17
    generator = torch.Generator().manual_seed(0)
    values, factors = torch.randn(2, steps, lanes, generator=generator, dtype=dtype)
    start = torch.randn(lanes, generator=generator, dtype=dtype)
    expected, before = [], start
    for value, factor in zip(values, factors, strict=True):
        before = torch.addcmul(value, factor, before)
        expected.append(before)

    states = values.clone().unbind(0)
    addcmul_in_order_(states, factors.unbind(0), (start, *states[:-1]))

    torch.testing.assert_close(torch.stack(states), torch.stack(expected), rtol=0, atol=0)


def test_one_target_collects_every_product():
    generator = torch.Generator().manual_seed(0)
    factors, others = torch.randn(2, 9, 33, generator=generator, dtype=torch.float64)
    total = torch.zeros(33, dtype=torch.float64)

    addcmul_in_order_([total] * 9, factors.unbind(0), others.unbind(0))

    # 9 additions in float64, in either order: 9 · 2^-53 · 9 products of up to 4²
    torch.testing.assert_close(total, (factors * others).sum(0), rtol=0, atol=2e-13)


def test_no_steps_change_nothing():
    addcmul_in_order_((), (), ())
