"""Dense layers with local rules, and the field's motion."""

import pytest
import torch
from torch.nn import functional as F

from phasefield.layers import FieldEvolution, GoldenEmbedding, HebbianCrystal, LocalReadout


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_readouts_delta_rule_is_the_gradient_of_its_cross_entropy():
    readout = LocalReadout(6, 9)
    readout.weight.normal_(generator=generator())
    h, targets = (
        torch.randn(40, 6, generator=generator(1)),
        torch.randint(0, 9, (40,), generator=generator(2)),
    )
    weight = readout.weight.clone().requires_grad_()
    loss = F.cross_entropy(h @ weight.T, targets)
    (gradient,) = torch.autograd.grad(loss, weight)
    before = readout.weight.clone()
    torch.testing.assert_close(readout.learn_(h, targets, 0.3), loss.detach())
    torch.testing.assert_close(readout.weight - before, -0.3 * gradient, atol=1e-6, rtol=1e-5)


def test_a_crystal_with_the_delta_rule_leads_each_code_to_the_next():
    codes = GoldenEmbedding(12, 32)(torch.arange(12))
    crystal = HebbianCrystal(32, "delta", bound=100.0)
    x, y = codes, codes.roll(-1, 0)
    for _ in range(3000):
        crystal.learn_(x, y)
    led = (crystal(x) - x) @ codes.T / codes.norm(dim=1)  # the nearest direction
    assert torch.equal(led.argmax(1), torch.arange(12).roll(-1))
    plain = HebbianCrystal(32, "hebb")
    plain.learn_(x, y)
    expected = plain.rate * torch.einsum("nd,ne->de", y, x) / 12 / x.square().sum(1).mean()
    torch.testing.assert_close(plain.weight, expected, atol=1e-6, rtol=1e-4)


def test_ojas_crystal_finds_the_principal_direction():
    direction = F.normalize(torch.tensor([1.0, -2.0, 0.5, 0.0]), dim=0)
    x = (
        torch.randn(4000, 1, generator=generator()) * direction * 3
        + torch.randn(4000, 4, generator=generator(1)) * 0.3
    )
    crystal = HebbianCrystal(4, "oja", rate=0.1)
    for batch in x.split(100) * 5:
        crystal.learn_(batch, batch)
    rows = F.normalize(crystal.weight, dim=1)
    assert ((rows @ direction).abs() > 0.99).all()  # every row by itself


@pytest.mark.parametrize("rule", ["hebb", "delta", "oja"])
def test_the_crystals_largest_singular_value_stays_under_its_bound(rule):
    crystal = HebbianCrystal(16, rule, bound=0.7)
    for step in range(200):
        x = torch.randn(50, 16, generator=generator(step))
        crystal.learn_(x, 3 * x)
    # One step of power iteration follows a matrix that changes: it lags by a few hundredths.
    assert 0.5 < float(torch.linalg.matrix_norm(crystal.weight, 2)) < 0.75


def test_a_crystal_that_knows_nothing_leaves_the_field_as_it_is():
    x = torch.randn(3, 8, generator=generator())
    assert torch.equal(HebbianCrystal(8)(x), x)


def test_field_evolution_is_the_midpoint_rule_of_the_dense_force():
    evolution = FieldEvolution(steps=3, time_step=0.02, strength=0.5, softening=0.2)
    x = F.normalize(torch.randn(2, 20, 5, generator=generator()), dim=-1)
    mass = torch.rand(2, 20, generator=generator(1))

    def force(psi):
        d = psi.unsqueeze(1) - psi.unsqueeze(2)  # [B, i, j, D]: from i to j
        weight = mass.double().unsqueeze(1) * (d.square().sum(-1) + 0.04) ** -1.5
        return 0.5 * (weight.tril(-1).unsqueeze(-1) * d).sum(2)

    expected = x.double()
    for _ in range(3):
        half = expected + 0.01 * force(expected)
        expected = F.normalize(expected + 0.02 * force(half), dim=-1)
    torch.testing.assert_close(evolution(x, mass).double(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        evolution.momentum(x, mass).double(),
        (mass.double().unsqueeze(-1) * force(x.double())).sum(1),
        atol=1e-4,
        rtol=1e-5,
    )


def test_field_evolution_is_causal_and_lowers_the_energy():
    evolution = FieldEvolution(steps=2)
    x = F.normalize(torch.randn(1, 30, 6, generator=generator()), dim=-1)
    changed = x.clone()
    changed[:, 20:] *= -1
    moved = evolution(x)
    torch.testing.assert_close(evolution(changed)[:, :20], moved[:, :20], atol=1e-6, rtol=0)
    assert evolution.energy(moved) < evolution.energy(x) < 0
    pair = torch.tensor([[[0.0, 0.0], [0.3, 0.4]]])
    energy = FieldEvolution(strength=2.0, softening=1.2).energy(pair, torch.tensor([[3.0, 0.5]]))
    assert energy.item() == pytest.approx(-2 * 3 * 0.5 / 1.3)
