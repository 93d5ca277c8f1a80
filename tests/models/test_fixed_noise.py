"""Random numbers that a text decides."""

import math

import torch

from phasefield.models.fixed_noise import fixed_normal, fixed_uniform

TEXTS = torch.randint(65, (300, 20), generator=torch.Generator().manual_seed(0))


def test_a_rows_numbers_do_not_depend_on_the_batch():
    whole = fixed_normal(TEXTS, 5, 3)
    assert whole.shape == (300, 5, 3)
    assert fixed_normal(TEXTS[7:8], 5, 3).equal(whole[7:8])


def test_streams_other_texts_and_other_orders_give_other_numbers():
    numbers = fixed_uniform(TEXTS, 50)
    for other in (
        fixed_uniform(TEXTS, 50, stream=1),
        fixed_uniform(TEXTS.flip(1), 50),
        fixed_uniform(torch.cat([TEXTS[:, :-1], TEXTS[:, -1:] + 1], dim=1), 50),
        numbers.roll(1, 0),
        numbers.roll(1, 1),
    ):
        correlation = torch.corrcoef(torch.stack([numbers.flatten(), other.flatten()]))[0, 1]
        assert abs(correlation) < 5 / math.sqrt(numbers.numel())  # five standard errors of independent ones


def test_uniform_and_normal_numbers_have_their_distributions():
    uniform = fixed_uniform(TEXTS, 100).flatten()
    assert ((uniform > 0) & (uniform < 1)).all()
    grid = torch.linspace(0, 1, uniform.numel() + 1, dtype=torch.float64)[1:]
    # Kolmogorov and Smirnov: above 2/√n once in 1,500.
    assert (uniform.sort().values - grid).abs().max() < 2 / math.sqrt(uniform.numel())
    normal = fixed_normal(TEXTS, 100).flatten()
    assert normal.isfinite().all()
    torch.testing.assert_close(torch.special.ndtr(normal), uniform)


def test_the_mixing_is_splitmix64s():
    # Of a text of no tokens the key is mix(0) = 0: the generator from seed 0. Its first outputs are known.
    first = fixed_uniform(torch.empty(1, 0, dtype=torch.long), 2)[0]
    for number, published in zip(first.tolist(), (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4), strict=True):
        assert number == ((published >> 11) + 0.5) * 2.0**-53
