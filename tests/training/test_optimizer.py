from dataclasses import replace

import pytest
import torch
from torch import nn

from phasefield.training import TrainConfig
from phasefield.training.optimizer import make_optimizer, set_learning_rate


def model():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 3), nn.Linear(3, 2))
    layers[2].weight._no_weight_decay = True
    return layers


def trained(optimizer_of, steps=20):
    layers = model()
    optimizer = optimizer_of(layers)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        layers(torch.randint(7, (5, 3), generator=generator)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return dict(layers.named_parameters())


def test_without_decay_it_is_adam_bit_for_bit():
    ours = trained(lambda layers: make_optimizer(layers, TrainConfig(lr=1e-2)))
    adam = trained(lambda layers: torch.optim.Adam(layers.parameters(), lr=1e-2, fused=True))
    assert all(ours[name].equal(adam[name]) for name in adam)


def test_the_decay_shrinks_matrices_and_spares_vectors_and_what_is_marked():
    config = TrainConfig(lr=1e-2, weight_decay=0.5)
    decayed = trained(lambda layers: make_optimizer(layers, config), steps=1)
    plain = trained(lambda layers: make_optimizer(layers, TrainConfig(lr=1e-2)), steps=1)
    before = dict(model().named_parameters())
    for name in before:
        shrunk = 0.0 if name in ("1.bias", "2.bias", "2.weight") else 1e-2 * 0.5 * before[name]
        # Two roundings of numbers of about 1.
        assert torch.allclose(decayed[name], plain[name] - shrunk, atol=3e-7), name


def test_a_decay_in_passes_over_the_text_is_that_share_of_the_rate():
    config = TrainConfig(lr=1e-2, decay_epochs=4.0)
    by_passes = trained(lambda layers: make_optimizer(layers, config, steps_per_epoch=25.0))
    by_share = trained(lambda layers: make_optimizer(layers, TrainConfig(lr=1e-2, weight_decay=1.0)))
    assert all(by_passes[name].equal(by_share[name]) for name in by_share)
    groups = make_optimizer(model(), replace(config, weight_decay=0.5), 25.0).param_groups
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]
    groups = make_optimizer(model(), config).param_groups
    assert [group["weight_decay"] for group in groups] == [0.0]  # one launch where all are treated alike


def test_the_betas_are_adams():
    ours = trained(lambda layers: make_optimizer(layers, TrainConfig(lr=1e-2, beta1=0.8, beta2=0.9)))
    adam = trained(
        lambda layers: torch.optim.Adam(layers.parameters(), lr=1e-2, betas=(0.8, 0.9), fused=True)
    )
    assert all(ours[name].equal(adam[name]) for name in adam)


def test_every_group_gets_the_learning_rate():
    optimizer = make_optimizer(model(), TrainConfig(weight_decay=0.1))
    set_learning_rate(optimizer, 0.125)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.125]


def test_the_schedule_reaches_the_spared_parameters(flags, quietly, monkeypatch):
    rates = []
    step = torch.optim.AdamW.step

    def spy(self, *arguments):
        rates.append([group["lr"] for group in self.param_groups])
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    quietly(flags(steps=4, warmup_steps=4, lr=0.4, weight_decay=0.1))
    assert rates == [pytest.approx([rate, rate]) for rate in (0.1, 0.2, 0.3, 0.4)]
