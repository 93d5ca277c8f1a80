"""The field model's parts, each against a definition of its own."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from phasefield.layers import (
    BornMixture,
    ContextPhases,
    CrystalMemory,
    GoldenEmbedding,
    GravityMemory,
    PerturbationSchedule,
    SiteTable,
    beta_times,
    golden_frequencies,
    hebbian_amplification,
    levy_stable,
    perturb,
    phase_code,
    phase_harmonics,
    window_coherence,
)
from phasefield.layers.golden import PHI
from phasefield.layers.mixture import LEVELS, confidence_level


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_one_golden_frequency_is_the_golden_ratio_and_more_are_powers_of_its_generalisation():
    assert int(golden_frequencies(1)) % 2**64 == 0x9E3779B97F4A7C15
    turns = [(int(f) % 2**64) / 2**64 for f in golden_frequencies(3)]
    root = 1 / turns[0]
    assert root**4 == pytest.approx(root + 1, abs=1e-14)
    assert turns == pytest.approx([root**-1, root**-2, root**-3], abs=1e-15)


def test_the_golden_code_has_full_rank_where_the_origins_cone_has_three():
    assert torch.linalg.matrix_rank(GoldenEmbedding(97, 48).table) == 48
    assert torch.linalg.matrix_rank(GoldenEmbedding(97, 48, "log_phase").table) == 48
    assert torch.linalg.matrix_rank(GoldenEmbedding(97, 3, "cone").table) == 3


@pytest.mark.parametrize(
    ("mode", "rank", "mean"), [("golden", 16, 0), ("log_phase", 16, 0), ("cone", 3, 0.5)]
)
def test_codes_of_phases_are_unit_vectors_of_known_rank_and_mean_product(mode, rank, mean):
    phases = torch.randint(-(2**63), 2**63 - 1, (2, 4000), generator=generator())
    first, second = phase_code(phases, golden_frequencies(8), mode)
    torch.testing.assert_close(first.norm(dim=-1), torch.ones(4000))
    assert torch.linalg.matrix_rank(first) == rank
    # Products have a standard deviation of 1/√2K at most 1/2: four of them over √4000.
    assert (first * second).sum(-1).mean() == pytest.approx(mean, abs=4 * 0.5 / 4000**0.5)


def test_the_log_phase_code_keeps_the_order_and_spreads_what_is_small():
    phases = torch.randint(-(2**63), 2**63 - 1, (500,), generator=generator())
    plain = phase_harmonics(phases, golden_frequencies(1))[:, 0]
    logarithm = phase_code(phases, golden_frequencies(1), "log_phase")[:, 0]
    order = plain.argsort()
    assert (logarithm[order].diff() > 0).all()
    small = plain.abs() < 0.1
    assert (logarithm[small].abs() > 2 * plain[small].abs()).all()


def test_radii_follow_measured_frequencies():
    embedding = GoldenEmbedding(4, 6)
    embedding.set_counts(torch.tensor([5.0, 100.0, 0.0, 5.0]))
    radius = embedding(torch.arange(4)).norm(dim=1)
    expected = 1 / PHI**2 + (1 - 1 / PHI**2) * torch.tensor([1, 0, 3, 2]) / 4
    torch.testing.assert_close(radius, expected)
    centred = GoldenEmbedding(50, 8, "log_phase").table
    torch.testing.assert_close(centred.mean(0), torch.zeros(8), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("vocab", "pairs", "epsilon"), [(500, 100, 1e-6), (500, 500, 1e-6), (300, 41, 1e-3)])
def test_the_hebbian_amplification_is_the_origins_ratio(vocab, pairs, epsilon):
    i = np.arange(vocab)
    radius, angle = 1 / PHI**2 + (1 - 1 / PHI**2) * i / vocab, 2 * np.pi * np.mod(i * PHI, 1)
    plain = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    length = np.sqrt((plain**2).sum(1, keepdims=True) + epsilon)
    turned = plain / length
    log = np.log(length + epsilon) + np.sign(turned) * np.log(np.abs(turned) + epsilon)
    norms = [np.linalg.norm(sum(np.outer(e[k + 1], e[k]) for k in range(pairs - 1))) for e in (log, plain)]
    # The table is float32, and ln |cos| magnifies its rounding near 0.
    assert hebbian_amplification(vocab, pairs, epsilon) == pytest.approx(norms[0] / norms[1], rel=1e-4)


def test_coherence_is_the_largest_eigenvalues_share_in_the_past_window():
    x = torch.randn(2, 33, 7, generator=generator()) + 3
    x[0, 12:20] = x[0, 12]
    coherence = window_coherence(x, 6)
    for t in range(33):
        window = x[0, max(0, t - 5) : t + 1].double()
        values = torch.linalg.eigvalsh((window - window.mean(0)) @ (window - window.mean(0)).T)
        warm = len(window) >= 3 and values.sum() > 1e-5 * window.square().sum()
        expected = float(values[-1] / values.sum()) if warm else 0.0
        # Products of float32 states, |x|² = 70, are centred to |x|² = 7: ten units of 2^-24 · 60.
        assert float(coherence[0, t]) == pytest.approx(expected, abs=1e-4)
    changed = x.clone()
    changed[:, 20:] = -1
    assert torch.equal(window_coherence(changed, 6)[:, :20], coherence[:, :20])


def _stable_density(x, alpha):
    t = np.linspace(0, 12, 4001)  # exp(−12^1.6) is 1e-24
    return np.trapezoid(np.cos(np.outer(x, t)) * np.exp(-(t**alpha)), t, axis=1) / np.pi


@pytest.mark.parametrize("alpha", [PHI, 1.0, 2.0, 0.8])
def test_levy_draws_have_the_stable_characteristic_function(alpha):
    draws = levy_stable((300, 1000), alpha, generator=generator()).double()
    for t in (0.2, 0.7, 1.5, 3.0):
        # The mean of n cosines deviates by at most 1/√n; four standard deviations, n = 300,000.
        assert float((t * draws).cos().mean()) == pytest.approx(math.exp(-(t**alpha)), abs=4 / 548)
    assert float(draws.sign().mean()) == pytest.approx(0, abs=4 / 548)


def test_truncated_levy_draws_have_the_conditional_laws_characteristic_function():
    limit = 2.5
    draws = levy_stable((300_000,), PHI, limit, generator=generator()).double()
    assert float(draws.abs().max()) <= limit
    x = np.linspace(-limit, limit, 1001)
    density = _stable_density(x, PHI)
    for t in (0.5, 1.3, 3.0):
        expected = np.trapezoid(np.cos(t * x) * density, x) / np.trapezoid(density, x)
        assert float((t * draws).cos().mean()) == pytest.approx(expected, abs=4 / 548)
        assert abs(expected - math.exp(-(t**PHI))) > 0.015  # so the untruncated law would fail


@pytest.mark.parametrize(("a", "b"), [(0.5, 3.0), (16.0, 128.0), (1.0, 0.5)])
def test_beta_times_have_the_beta_laws_moments(a, b):
    draws = beta_times((200_000,), a, b, generator=generator()).double()
    mean, variance = a / (a + b), a * b / ((a + b) ** 2 * (a + b + 1))
    assert float(draws.mean()) == pytest.approx(mean, abs=4 * math.sqrt(variance / 200_000))
    assert float(draws.var()) == pytest.approx(variance, rel=0.03)  # 4 √(kurtosis / n), kurtosis under 10
    assert 0 <= draws.min() <= draws.max() <= 1


@pytest.mark.parametrize("kind", ["levy", "beta", "adaptive"])
def test_perturbations_keep_unit_length_and_follow_their_seed(kind):
    x = torch.nn.functional.normalize(torch.randn(2, 9, 12, generator=generator()), dim=-1)
    coherence = torch.rand(2, 9, generator=generator(1))
    first, again, other = (
        perturb(x, kind, 0.05, coherence=coherence, generator=generator(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.testing.assert_close(first.norm(dim=-1), torch.ones(2, 9))
    assert 0 < float((first - x).norm(dim=-1).max()) < 1.5


def test_the_adaptive_perturbation_jumps_where_the_field_is_incoherent():
    x = torch.nn.functional.normalize(torch.randn(1, 400, 16, generator=generator()), dim=-1)
    levy = perturb(x, "levy", 0.01, generator=generator(5))
    coherence = torch.tensor([0.1, 0.9]).repeat(200).unsqueeze(0)
    mixed = perturb(x, "adaptive", 0.01, coherence=coherence, generator=generator(5))
    assert torch.equal(mixed[:, ::2], levy[:, ::2])
    assert not torch.equal(mixed[:, 1::2], levy[:, 1::2])


def test_a_schedule_names_what_acts_from_which_step_on():
    schedule = PerturbationSchedule.parse('{"10000": "adaptive", "5": "beta"}')
    assert [schedule.at(step) for step in (0, 4, 5, 9999, 10000)] == [
        "none",
        "none",
        "beta",
        "beta",
        "adaptive",
    ]
    for bad in ("beta", '{"0": "brownian"}', '{"x": "beta"}', "[1]", '{"-1": "beta"}'):
        with pytest.raises(ValueError, match="perturbation schedule"):
            PerturbationSchedule.parse(bad)


def test_a_site_table_is_a_dictionary_until_it_is_full():
    table, known = SiteTable(2048, 1), Counter()
    for seed in range(4):
        phases = torch.randint(-(2**62), 2**62, (250,), generator=generator(seed % 3)).unique()
        table.add_(table.claim(phases), torch.ones(len(phases), 1))
        known.update(phases.tolist())
    phases = torch.tensor(list(known))
    sites = table.find(phases)
    read = table.read(sites).squeeze(1)
    stored = sites >= 0
    assert stored.float().mean() > 0.999  # buckets of sixteen at a load of 0.37
    assert sites[stored].unique().numel() == stored.sum() == table.occupied
    assert torch.equal(read, torch.tensor(list(known.values())).float() * stored)
    assert (table.find(phases + 1) == -1).all()


def test_a_full_table_drops_what_finds_no_site():
    table = SiteTable(16, 1)
    phases = torch.arange(1, 200) * 0x1234567
    sites = table.claim(phases)
    assert table.occupied == (sites >= 0).sum() <= 16
    assert torch.equal(table.claim(phases), sites)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_amplitudes_are_right_in_the_mean(dtype):
    table = SiteTable(4096, 1, dtype)
    sites = torch.arange(4096)
    source = generator()
    table.add_(sites, torch.full((4096, 1), 4000.0), source)
    for _ in range(50):
        table.add_(sites, torch.ones(4096, 1), source)
    mean, step = float(table.read(sites).mean()), 32 if dtype == torch.bfloat16 else 4
    # Each of 51 roundings is off by at most a step; the errors of 4096 sites are independent.
    assert mean == pytest.approx(4050, abs=4 * step * math.sqrt(51 / 4096))
    assert table.amplitudes.dtype == dtype


def words_of(tokens, boundary):
    """For each position the current run, the word before and the one before that."""
    run, past, found = [], [(), ()], []
    for t, token in enumerate(tokens):
        inside = not boundary[token]
        if t == 0 or inside != (not boundary[tokens[t - 1]]):
            if t and not inside:
                past = [tuple(run), *past]
            run = []
        run.append(token)
        found.append((tuple(run), past[0], past[1]))
    return found


def test_context_phases_are_equal_exactly_where_contexts_are():
    names = ("0", "1", "3", "w", "w1", "w2", "ws")
    contexts = ContextPhases(9, names)
    contexts.boundary[:3] = True
    tokens = torch.randint(0, 9, (2, 60), generator=generator())
    whole, place, _ = contexts(tokens)
    keys = {}
    for b, row in enumerate(tokens.tolist()):
        for t, (run, before, earlier) in enumerate(words_of(row, contexts.boundary)):
            history = tuple(row[: t + 1])
            context = [
                (),
                history[-1:],
                history[-3:],
                run,
                (run, before),
                (run, before, earlier),
                (run, earlier),
            ]
            for kind, key in enumerate(context):
                assert keys.setdefault((kind, key), int(whole[b, t, kind])) == whole[b, t, kind]
            assert abs(int(place[b, t])) == len(run)
    assert len(set(keys.values())) == len(keys)


def test_contexts_of_pieces_are_those_of_the_whole():
    contexts = ContextPhases(9, ("2", "24", "w", "w1", "w2", "ws"))
    contexts.boundary[:3] = True
    tokens = torch.randint(0, 9, (3, 70), generator=generator())
    whole, place, final = contexts(tokens)
    state, phases, places = None, [], []
    for first, last in ((0, 1), (1, 2), (2, 2), (2, 31), (31, 70)):
        part, where, state = contexts(tokens[:, first:last], state)
        phases.append(part)
        places.append(where)
    assert torch.equal(torch.cat(phases, 1), whole)
    assert torch.equal(torch.cat(places, 1), place)
    assert torch.equal(state.word, final.word)
    assert torch.equal(state.recent, final.recent)


KINDS = torch.tensor([0, 1, 2])


def discounted(counts, discount, below):
    total = sum(counts.values())
    if not total:
        return below
    return [(max(counts[v] - discount, 0) + discount * len(counts) * p) / total for v, p in enumerate(below)]


def test_the_crystal_reads_what_counting_gives():
    vocab, memory = 6, CrystalMemory(6, (-1, 0, 1), 4096)
    # Kinds of contexts have phases of their own, as ContextPhases makes them.
    phases = torch.randint(0, 4, (500, 3), generator=generator()) * torch.tensor([0, 10, 10]) + KINDS
    tokens = torch.randint(0, vocab, (500,), generator=generator(1)) * (phases[:, 1] > 1)
    for first in range(0, 500, 130):
        memory.learn_(phases[first : first + 130].view(-1, 1, 3), tokens[first : first + 130].view(-1, 1))
    counts = [defaultdict(Counter) for _ in range(3)]
    for row, token in zip(phases.tolist(), tokens.tolist(), strict=True):
        for kind, phase in enumerate(row):
            counts[kind][phase][token] += 1
    asked = torch.tensor([[0, 1, 1], [0, 0, 2], [0, 2, 7], [0, 8, 1]]) * 10 + KINDS
    evidence = memory.evidence(asked)
    p = memory.read(asked, torch.arange(vocab).expand(4, -1), evidence)
    for row, question in enumerate(asked.tolist()):
        below = [1 / vocab] * vocab
        for kind, phase in enumerate(question):
            bonds = [c for followers in counts[kind].values() for c in followers.values()]
            once, twice = bonds.count(1), bonds.count(2)
            below = discounted(counts[kind][phase], once / (once + 2 * twice) if once else 0.75, below)
            assert p[row, :, kind].tolist() == pytest.approx(below, abs=1e-6)  # float32, a few operations
            followers = counts[kind][phase]
            assert evidence[row, kind].tolist() == [sum(followers.values()), len(followers)]


def written(sites, rows, *, seed=0, dtype=torch.float32, vocab=11):
    """A crystal that learnt random tokens behind contexts of three kinds, and both."""
    memory = CrystalMemory(vocab, (-1, 0, 1), sites, dtype)
    phases = torch.randint(0, 90, (rows, 3), generator=generator(seed)) * torch.tensor([0, 10, 10]) + KINDS
    tokens = torch.randint(0, vocab, (rows,), generator=generator(seed + 1))
    for part in zip(phases.split(100), tokens.split(100), strict=True):
        memory.learn_(*part, generator(seed))
    return memory, phases, tokens


def everything_read(memory, phases):
    every = torch.arange(memory.vocab_size).expand(len(phases), -1)
    return memory.read(phases, every, memory.evidence(phases))


@pytest.mark.parametrize("sites", [16, 64, 256, 4096])
def test_the_crystals_distributions_sum_to_one_also_when_it_is_full(sites):
    memory, phases, _ = written(sites, 700)
    assert (memory.fadings > 0) == (sites < 4096)
    p = everything_read(memory, phases)
    torch.testing.assert_close(p.sum(1), torch.ones(700, 3), atol=1e-5, rtol=0)
    assert p.min() >= 0


def test_a_full_crystal_keeps_the_strong_traces_and_learns_new_ones():
    memory = CrystalMemory(11, (-1, 0, 1), 256)
    often, new = torch.tensor([[3, 7, 7]]) * 1000 + KINDS, torch.tensor([[4, 8, 8]]) * 1000 + KINDS
    memory.learn_(often.expand(40, -1), torch.full((40,), 5))
    for seed in range(9):
        noise = torch.randint(0, 10**6, (100, 3), generator=generator(seed)) + 10**7
        memory.learn_(noise, torch.randint(0, 11, (100,), generator=generator(seed)))
    assert memory.fadings >= 8
    assert memory.evidence(often)[0].tolist() == [[40, 1]] * 3
    for _ in range(4):  # each fading makes room in another quarter
        memory.fade_()
    memory.learn_(new, torch.tensor([2]))
    assert memory.evidence(new)[0].tolist() == [[1, 1]] * 3


def test_fading_takes_at_least_a_sixteenth_and_its_counts_and_contexts_with_it():
    memory, phases, _ = written(1024, 300)
    bonds = memory.bonds.occupied
    memory.fade_()
    assert 0 < memory.bonds.occupied <= bonds * 17 / 16 - bonds / 8
    p = everything_read(memory, phases)
    torch.testing.assert_close(p.sum(1), torch.ones(300, 3), atol=1e-5, rtol=0)
    for _ in range(200):
        memory.fade_()
    assert memory.bonds.occupied == memory.contexts.occupied == 0
    assert not memory.contexts.amplitudes.any()
    assert not memory.bonds.amplitudes.any()


def test_what_was_forgotten_fades_without_a_trace_in_its_contexts():
    memory, phases, tokens = written(4096, 300)
    memory.learn_(phases[::2], tokens[::2], forget=True)
    for _ in range(4):
        memory.fade_()
    p = everything_read(memory, phases)
    torch.testing.assert_close(p.sum(1), torch.ones(300, 3), atol=1e-5, rtol=0)
    assert (memory.bonds.amplitudes > 0).sum() == memory.contexts.amplitudes[:, 1].sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merged_crystals_know_what_one_knows_that_learnt_both(dtype):
    # Counts below 256 are exact in bfloat16 too.
    (first, phases, _), (second, more, others) = (
        written(4096, 90, seed=seed, dtype=dtype) for seed in (0, 5)
    )
    both, _, _ = written(4096, 90, dtype=dtype)
    both.learn_(more, others)
    first.merge_(second)
    asked = torch.cat([phases, more])
    assert torch.equal(first.evidence(asked), both.evidence(asked))
    assert torch.equal(first.rare, both.rare)
    assert torch.equal(everything_read(first, asked), everything_read(both, asked))
    # What was merged can be forgotten, and fades, like what was learnt here.
    alone, _, _ = written(4096, 90, dtype=dtype)
    first.learn_(more, others, forget=True)
    assert torch.equal(everything_read(first, asked), everything_read(alone, asked))


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (CrystalMemory(5, (-1, 0), 64), "vocab_size 5"),
        (CrystalMemory(6, (-1, -1), 64), "parents"),
        (CrystalMemory(6, (-1, 0), 128), "sites 128"),
    ],
)
def test_crystals_that_are_not_alike_are_not_merged(other, named):
    with pytest.raises(ValueError, match=named):
        CrystalMemory(6, (-1, 0), 64).merge_(other)


def test_what_the_crystal_forgets_it_knew_before_bit_for_bit():
    memory = CrystalMemory(5, (-1, 0), 1024)
    phases = torch.randint(0, 30, (200, 2), generator=generator()) * torch.tensor([0, 10]) + KINDS[:2]
    tokens = torch.randint(0, 5, (200,), generator=generator(1))
    memory.learn_(phases[:90], tokens[:90])

    def answer() -> torch.Tensor:
        return memory.read(phases, torch.arange(5).expand(200, -1), memory.evidence(phases))

    before = answer()
    memory.learn_(phases[90:], tokens[90:])
    assert not torch.equal(answer(), before)
    memory.learn_(phases[90:], tokens[90:], forget=True)
    assert torch.equal(answer(), before)


def test_the_mixtures_delta_rule_is_the_gradient_of_its_log_likelihood():
    mixture = BornMixture(4, (3, 5)).double()
    mixture.by_confidence.normal_(generator=generator())
    mixture.by_gate.normal_(generator=generator())
    confidence = torch.randint(0, LEVELS, (40, 4), generator=generator())
    gates = torch.stack([torch.randint(0, size, (40,), generator=generator(2)) for size in (3, 5)], 1)
    p = torch.rand(40, 4, generator=generator(3), dtype=torch.float64)
    weights = [mixture.by_confidence.clone().requires_grad_(), mixture.by_gate.clone().requires_grad_()]
    rows = torch.arange(4) * LEVELS
    logits = weights[0][confidence + rows] + weights[1][gates[:, 0]] + weights[1][3 + gates[:, 1]]
    scores = (logits.softmax(-1) * p).sum(-1).log()
    gradients = torch.autograd.grad(scores.sum(), weights)
    before = [mixture.by_confidence.clone(), mixture.by_gate.clone()]
    torch.testing.assert_close(mixture.learn_(p, confidence, gates, 0.01), scores.detach())
    for old, new, gradient in zip(before, (mixture.by_confidence, mixture.by_gate), gradients, strict=True):
        torch.testing.assert_close(new - old, 0.01 * gradient, atol=1e-12, rtol=1e-9)


def test_confidence_has_octaves_of_evidence_and_three_degrees_of_sharpness():
    evidence = torch.tensor([0.0, 1.0, 2.0, 4.0, 1e9])
    levels = [0, 3, 6, 9, 21]
    for outcomes, offset in ((1, 0), (2, 1), (3, 1), (4, 2)):
        found = confidence_level(evidence, torch.full((5,), float(outcomes)))
        assert found.tolist() == [level + offset for level in levels]


@pytest.mark.parametrize("horizon", [512, 70, 5, 1])
def test_gravitys_pull_is_the_sum_over_the_past_and_pieces_feel_what_the_whole_feels(horizon):
    memory = GravityMemory(7, horizon=horizon, orders=3, width=8)
    phases = torch.randint(-(2**62), 2**62, (2, 150, 3), generator=generator())
    phases[:, 90:100] = phases[:, 30:40]
    tokens = torch.randint(0, 7, (2, 150), generator=generator(1))
    mass = torch.rand(2, 150, generator=generator(2))
    pull, _ = memory(phases, tokens, mass)
    places = torch.cat([memory.code(torch.zeros(2, 1, 3, dtype=torch.int64)), memory.code(phases)], 1)
    squares = torch.cdist(places[:, 1:].double(), places[:, :-1].double()) ** 2
    distance = torch.arange(150)[:, None] - torch.arange(150)
    felt = ((distance >= 0) & (distance < horizon)) * mass.double().unsqueeze(1)
    weight = ((squares + memory.value_scale**2 + memory.softening**2) ** -1.5 - memory.background) * felt
    dense = (weight @ torch.nn.functional.one_hot(tokens, 7).double()).clamp_min(0)
    # Pulls reach 250; |d|² = 2 − 2 q·q' errs by 2^-23 for each code's length and 2^-22 for the product, and
    # a pull by 3/2 · 2^-21 / 0.025 of itself: 0.0072.
    torch.testing.assert_close(pull.double(), dense, atol=8e-3, rtol=0)
    state, parts = None, []
    for first, last in ((0, 1), (1, 3), (3, 70), (70, 150)):
        part = slice(first, last)
        found, state = memory(phases[:, part], tokens[:, part], mass[:, part], state)
        parts.append(found)
    torch.testing.assert_close(torch.cat(parts, 1), pull, atol=8e-3, rtol=0)
    assert state.tokens.shape[1] == min(150, horizon - 1)
