"""Diffusion-LM: its noise against float64 formulas and Bayes, its bound against torch.distributions, its
samplers."""

import math

import pytest
import torch
from torch.distributions import Categorical, Normal, kl_divergence

from phasefield.models import DiffusionLM, DiffusionLMConfig
from phasefield.models.diffusion_lm import NoiseSchedule
from phasefield.models.drafting import Sampling
from phasefield.models.fixed_noise import fixed_normal

SCHEDULES = [("sqrt", 2), ("sqrt", 17), ("sqrt", 2000), ("cosine", 2), ("cosine", 17), ("cosine", 1000)]
each_schedule = pytest.mark.parametrize(("kind", "steps"), SCHEDULES)


def build(**changes):
    torch.manual_seed(0)
    shape = dict(embed_dim=6, hidden_dim=16, num_layers=2, num_heads=2, block_size=12)
    process = dict(diffusion_steps=9, bound_samples=4)
    return DiffusionLM(DiffusionLMConfig(7, **{**shape, **process, **changes}))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@each_schedule
def test_the_signal_that_is_left_follows_the_papers_formulas(kind, steps):
    kept = NoiseSchedule(kind, steps).kept
    assert kept.dtype == torch.float64
    assert kept[0] == 1
    assert (kept.diff() < 0).all()
    for t in range(steps):  # at T itself the formula gives 0 or less, and the last α is cut
        u = t / steps
        if kind == "sqrt":
            expected = (1 - math.sqrt(u + 1e-4)) / (1 - math.sqrt(1e-4))
        else:
            expected = (
                math.cos((u + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)
            ) ** 2
        # T products, each rounded to 2^-53; near T the cosine itself loses digits.
        assert kept[t] == pytest.approx(expected, rel=steps * 2.0**-50, abs=1e-18)
    assert kept[-1] == pytest.approx(0.001 * kept[-2].item(), rel=1e-9)


@each_schedule
def test_noise_in_one_go_has_the_mean_and_variance_of_noise_step_by_step(kind, steps):
    schedule = NoiseSchedule(kind, steps)
    signal, variance = 1.0, 1 - schedule.kept[1].item()
    for t in range(1, steps + 1):
        alpha = schedule.kept[t].item() / schedule.kept[t - 1].item()
        signal, variance = math.sqrt(alpha) * signal, alpha * variance + 1 - alpha
        row = torch.tensor([t])
        one, zero = torch.ones(1, 1, 1).double(), torch.zeros(1, 1, 1).double()
        # T products and sums, each rounded to 2^-53.
        assert schedule.noised(one, row, zero).item() == pytest.approx(signal, rel=steps * 2.0**-50)
        assert schedule.noised(zero, row, one).item() ** 2 == pytest.approx(variance, rel=steps * 2.0**-50)


@each_schedule
def test_the_posterior_is_bayes_rule(kind, steps):
    schedule = NoiseSchedule(kind, steps)
    t = torch.tensor([1, 2, steps])
    clean, x = normal(3, 3, 4), normal(3, 3, 4, seed=1)
    mean, variance = schedule.posterior(clean, x, t)
    before, spread = (values[t - 1].reshape(3, 1, 1) for values in (schedule.kept, schedule.variance))
    alpha = schedule.kept[t].reshape(3, 1, 1) / before
    # Of x_{t−1}: a prior N(√ᾱ_{t−1} c, v_{t−1}) and a likelihood N(x_t; √α x_{t−1}, 1 − α).
    precision = 1 / spread + alpha / (1 - alpha)
    expected = (before.sqrt() * clean / spread + alpha.sqrt() * x / (1 - alpha)) / precision
    torch.testing.assert_close(mean, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(variance, 1 / precision, rtol=1e-9, atol=0)


@each_schedule
def test_the_divergence_of_two_guesses_is_that_of_their_posteriors(kind, steps):
    schedule = NoiseSchedule(kind, steps)
    t = torch.tensor([1, (steps + 2) // 2, steps])
    clean, guess, x = (normal(3, 4, 5, seed=seed) for seed in range(3))
    (mean, variance), (other, _) = schedule.posterior(clean, x, t), schedule.posterior(guess, x, t)
    expected = kl_divergence(Normal(mean, variance.sqrt()), Normal(other, variance.sqrt())).sum((1, 2))
    error = (clean - guess).square().sum((1, 2))
    torch.testing.assert_close(schedule.divergence_weight(t) * error, expected, rtol=1e-8, atol=0)


@each_schedule
def test_ddim_with_all_its_noise_is_ddpm_and_with_none_follows_the_noise_it_finds(kind, steps):
    schedule = NoiseSchedule(kind, steps)
    clean, noise, fresh = (normal(2, 3, 4, seed=seed) for seed in range(3))
    for t in {1, 2, (steps + 2) // 2, steps}:
        row = torch.tensor([t, t])
        x = schedule.noised(clean, row, noise)
        mean, variance = schedule.posterior(clean, x, row)
        drawn = schedule.reverse_step(x, clean, t, t - 1, 1.0, fresh)
        torch.testing.assert_close(drawn, mean + variance.sqrt() * fresh, rtol=1e-9, atol=1e-9)
        followed = schedule.reverse_step(x, clean, t, t // 2, 0.0, fresh)
        torch.testing.assert_close(followed, schedule.noised(clean, row // 2, noise), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("self_conditioning", [0.0, 0.5])
@pytest.mark.parametrize("schedule", ["sqrt", "cosine"])
def test_the_bound_is_the_sum_of_its_divergences_and_log_densities(schedule, self_conditioning):
    model = build(schedule=schedule, self_conditioning=self_conditioning).double().eval()
    torch.nn.init.normal_(model.rounding_bias)
    tokens = torch.randint(7, (3, 5), generator=torch.Generator().manual_seed(2))
    kept, variance, table = model.noise.kept, model.noise.variance, model.table()
    clean = table[tokens]
    end = Normal(kept[9].sqrt() * clean, variance[9].sqrt())
    total = kl_divergence(end, Normal(torch.zeros_like(clean), 1.0)).sum((1, 2))
    x0 = clean + math.sqrt(1 - kept[1]) * fixed_normal(tokens, 5, 6)
    total -= Categorical(logits=x0 @ table.T + model.rounding_bias).log_prob(tokens).sum(1)
    for t in range(1, 10):
        row = torch.full((3,), t)
        noise = fixed_normal(torch.cat([tokens, row.unsqueeze(1)], 1), 5, 6, stream=1)
        x = kept[t].sqrt() * clean + variance[t].sqrt() * noise
        guess = model.denoiser(x, torch.zeros_like(x), row, torch.zeros(3, 5))
        if self_conditioning:
            guess = model.denoiser(x, guess, row, torch.zeros(3, 5))
        true, guessed = (
            Normal(mean, spread.sqrt())
            for mean, spread in (model.noise.posterior(clean, x, row), model.noise.posterior(guess, x, row))
        )
        total += kl_divergence(true, guessed).sum((1, 2))
    torch.testing.assert_close(model.bound(tokens), total / 5, rtol=1e-8, atol=0)
    loss = model.loss(tokens, tokens)
    sampled = model.bound(tokens, model.config.bound_samples)
    torch.testing.assert_close(loss.terms["content"], sampled.mean())


def test_fewer_terms_give_the_bound_on_average():
    model = build(diffusion_steps=20).double().eval()
    tokens = torch.randint(7, (300, 4), generator=torch.Generator().manual_seed(2))
    exact = model.bound(tokens)
    for samples in (1, 6, 20):
        off = model.bound(tokens, samples) - exact
        assert abs(off.mean()) < 4 * off.std() / math.sqrt(300)  # four standard errors
        assert off.std() > 0
    assert model.noise.step_shares().sum() == pytest.approx(1, abs=1e-12)


class Perfect(torch.nn.Module):
    """The best denoiser there can be for equally likely texts: the mean of what they might be."""

    def __init__(self, texts, model):
        super().__init__()
        self.places, self.noise = model.table()[texts].detach(), model.noise

    def forward(self, x, before, t, known):
        signal, variance = (
            values[t].reshape(-1, 1, 1, 1) for values in (self.noise.kept.sqrt(), self.noise.variance)
        )
        distance = (x.unsqueeze(1) - signal * self.places).square() / (2 * variance)
        # A known place fits or does not.
        distance = torch.where(known[:, None, :, None], distance * 1e9, distance)
        return torch.einsum("bn,ntd->btd", (-distance.sum((2, 3))).softmax(1), self.places)


def perfect(**changes):
    """A model that knows all there is to know of 49 texts: ``a b a b``."""
    model = build(embed_dim=16, **changes).double().eval()
    torch.nn.init.orthogonal_(model.embedding.weight)
    model.rounding_bias.requires_grad_(False)
    pairs = torch.cartesian_prod(torch.arange(7), torch.arange(7))
    texts = torch.cat([pairs, pairs], dim=1)
    model.denoiser = Perfect(texts, model)
    return model, texts


@pytest.mark.parametrize("schedule", ["sqrt", "cosine"])
def test_the_bound_of_a_perfect_denoiser_is_just_above_the_entropy_of_its_texts(schedule):
    model, texts = perfect(schedule=schedule, diffusion_steps=200)
    bounds = model.bound(texts)
    error = bounds.std() / math.sqrt(len(texts))
    entropy = math.log(49) / 4
    assert bounds.mean() > entropy - 3 * error
    # Two hundred steps are not infinitely many; with 500 it is 1 % above.
    assert bounds.mean() < 1.05 * entropy + 3 * error
    assert error < 0.05 * entropy


@pytest.mark.parametrize("arguments", [{}, {"sampler": "ddim", "steps": 40}, {"sampler": "ddim", "eta": 0.5}])
def test_a_perfect_denoiser_draws_each_of_its_texts_as_often_as_the_others(arguments):
    model, texts = perfect(diffusion_steps=80)
    nothing = torch.zeros(490, 4, dtype=torch.long)
    sampling = Sampling(generator=torch.Generator().manual_seed(0))
    *_, drawn = model.infill(nothing, nothing.bool(), sampling, clamp=False, **arguments)
    which = (drawn.unsqueeze(1) == texts).all(-1)
    assert which.any(1).float().mean() > 0.98
    counts = which.sum(0)
    # χ² with 48 degrees of freedom: above 85 once in a thousand.
    assert ((counts - 10.0) ** 2 / 10).sum() < 85


@pytest.mark.parametrize("clamp", [True, False])
def test_a_perfect_denoiser_fills_in_what_follows_from_the_known_tokens(clamp):
    model, texts = perfect(diffusion_steps=40)
    known = torch.zeros(49, 4, dtype=torch.bool)
    known[:, 0] = known[:, 3] = True
    sampling = Sampling(generator=torch.Generator().manual_seed(0))
    *_, answer = model.infill(texts.masked_fill(~known, 0), known, sampling, clamp=clamp)
    assert (answer == texts).all(1).float().mean() == 1


def test_it_learns_a_pattern_and_continues_it():
    model = build(embed_dim=8, hidden_dim=24, diffusion_steps=20, block_size=6).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    pattern = torch.arange(3).repeat(8)
    for _ in range(300):
        optimizer.zero_grad()
        windows = pattern[torch.randint(3, (16, 1)) + torch.arange(6)]
        model.loss(windows, windows).total.backward()
        optimizer.step()
    model.eval()
    # The entropy is ln 3 / 6 = 0.18; who sees no pattern pays ln 3 = 1.1.
    assert model.bound(windows).mean() < 0.6
    generator = torch.Generator().manual_seed(0)
    answer = model.complete(pattern[1:4].unsqueeze(0), 12, temperature=0, generator=generator)
    assert answer[0].equal(pattern[4:16])


def test_the_loss_has_its_three_parts_and_embeddings_learn_from_each():
    model = build(self_conditioning=0.0).double().train()
    targets = torch.randint(7, (200, 4), generator=torch.Generator().manual_seed(2))
    torch.manual_seed(5)
    loss = model.loss(targets, targets)
    assert list(loss.terms) == ["content", "denoising", "prior", "rounding"]
    torch.manual_seed(5)
    t = torch.randint(1, 10, (200,))
    clean = model.table()[targets]
    prompted, length = torch.rand(200, 1) < 0.25, torch.randint(4, (200, 1))
    known = prompted & (torch.arange(4) < length)
    assert 0.02 < known.float().mean() < 0.2  # a quarter of three eighths
    x = model.noise.noised(clean, t, torch.randn_like(clean))
    x[known] = clean[known]
    torch.rand(())  # whether an estimate is shown: here never
    guess = model.denoiser(x, torch.zeros_like(x), t, known)
    x0 = clean + math.sqrt(1 - model.noise.kept[1]) * torch.randn_like(clean)
    parts = {
        "denoising": (clean - guess)[~known].square().mean(),
        "prior": (model.noise.kept[9].sqrt() * clean).square().mean(),
        "rounding": -Categorical(logits=x0 @ model.table().T).log_prob(targets).mean(),
    }
    for name, part in parts.items():
        torch.testing.assert_close(loss.terms[name], part.detach())
        (gradient,) = torch.autograd.grad(part, model.embedding.weight, retain_graph=True)
        assert gradient.abs().max() > 0
    torch.testing.assert_close(loss.total, sum(parts.values()))


def test_self_conditioning_shows_half_the_batches_an_estimate_without_a_gradient():
    model = build().train()
    targets = torch.randint(7, (4, 5))
    seen = []
    model.denoiser.register_forward_pre_hook(
        lambda _, inputs: seen.append((inputs[1], torch.is_grad_enabled()))
    )
    shown = 0
    for seed in range(40):
        torch.manual_seed(seed)
        seen.clear()
        model.loss(targets, targets)
        assert not seen[0][0].any()
        if len(seen) == 2:
            shown += 1
            assert seen[1][0].any()
            assert not seen[1][0].requires_grad
            assert [grad for _, grad in seen] == [False, True]
    assert 10 <= shown <= 30  # 20 ± 3.2; outside once in a thousand


def test_embeddings_have_unit_scale_whatever_their_weights():
    model = build()
    with torch.no_grad():
        model.embedding.weight.mul_(37)
    assert model.table().square().mean().item() == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("arguments", [{}, {"sampler": "ddim", "steps": 3}, {"sampler": "ddim", "eta": 0.5}])
@pytest.mark.parametrize("clamp", [True, False])
def test_infilling_leaves_known_tokens_untouched_in_every_draft(arguments, clamp):
    model = build(diffusion_steps=20).eval()
    tokens = torch.randint(7, (3, 8))
    known = torch.rand(3, 8) < 0.5
    sampling = Sampling(generator=torch.Generator().manual_seed(1))
    drafts = list(model.infill(tokens, known, sampling, clamp=clamp, **arguments))
    assert len(drafts) == (20 if not arguments else arguments.get("steps", 2))
    for draft in drafts:
        assert draft[known].equal(tokens[known])
        assert ((draft >= 0) & (draft < 7)).all()
    # What stands in the unknown places is not read.
    other = torch.where(known, tokens, 6 - tokens)
    sampling = Sampling(generator=torch.Generator().manual_seed(1))
    again = list(model.infill(other, known, sampling, clamp=clamp, **arguments))
    assert again[-1].equal(drafts[-1])


def test_ddim_without_noise_depends_on_the_first_noise_alone():
    model = build(diffusion_steps=20).eval()
    tokens, known = torch.randint(7, (3, 8)), torch.rand(3, 8) < 0.3
    generator = torch.Generator().manual_seed(1)
    drafts = list(model.infill(tokens, known, Sampling(0.0, generator=generator), sampler="ddim", steps=5))
    state = generator.get_state()
    generator.manual_seed(1)
    torch.randn(3, 8, 6, generator=generator)
    assert generator.get_state().equal(state)  # nothing else was drawn
    generator.manual_seed(1)
    again = list(model.infill(tokens, known, Sampling(0.0, generator=generator), sampler="ddim", steps=5))
    assert all(a.equal(b) for a, b in zip(again, drafts, strict=True))
    noisy = list(model.infill(tokens, known, Sampling(0.0, generator=generator)))
    assert not generator.get_state().equal(state)
    assert len(noisy) == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampler": "euler"}, "sampler is 'euler'"),
        (
            {"sampler": "ddpm", "steps": 5},
            "sampler is 'ddpm' with steps 5; it must be 'ddim', or 'ddpm' with all 9",
        ),
        ({"sampler": "ddim", "steps": 10}, r"steps is 10; .* at most diffusion_steps \(9\)"),
        ({"sampler": "ddim", "eta": 1.5}, "eta is 1.5"),
    ],
)
def test_samplers_that_do_not_exist_are_refused(arguments, message):
    tokens = torch.zeros(1, 3, dtype=torch.long)
    with pytest.raises(ValueError, match=message):
        next(build().infill(tokens, tokens.bool(), Sampling(), **arguments))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("embed_dim", 0),
        ("diffusion_steps", 1),
        ("schedule", "linear"),
        ("self_conditioning", 1.5),
        ("bound_samples", 10),
        ("num_heads", 3),
    ],
)
def test_values_out_of_range_are_refused(field, value):
    changes = {"bound_samples": 2, field: value}
    with pytest.raises(ValueError, match=f"{field} is {value!r}; it must be"):
        build(**changes)


def test_more_tokens_than_the_block_are_refused():
    tokens = torch.zeros(1, 13, dtype=torch.long)
    for call in (
        lambda model: model.loss(tokens, tokens),
        lambda model: model.bound(tokens),
        lambda model: next(model.infill(tokens, tokens.bool(), Sampling())),
    ):
        with pytest.raises(ValueError, match=r"the text has 13 tokens a sequence; at most block_size \(12\)"):
            call(build())
