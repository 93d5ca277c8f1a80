import math

import pytest
import torch

from phasefield import generation
from phasefield.generation import filter_logits, sample, stream_tokens
from phasefield.models import Landauer, LandauerConfig


@pytest.fixture(params=["aperiodic", "lru"])
def model(request):
    torch.manual_seed(0)
    return Landauer(LandauerConfig(9, embed_dim=4, hidden_dim=6, cell=request.param)).eval()


def drawn(model, prompt, count, **options):
    return torch.stack(list(stream_tokens(model, prompt, count, **options)), dim=1)


def test_each_token_is_the_likeliest_after_all_the_text_before_it(model):
    prompt = torch.tensor([[3, 1, 4], [1, 5, 0]])
    text = torch.cat([prompt, drawn(model, prompt, 20, temperature=0)], dim=1)
    with torch.no_grad():
        logits, _ = model(text)
    assert text[:, 3:].equal(logits[:, 2:-1].argmax(-1))


def test_the_whole_prompt_counts_not_only_its_last_token(model, monkeypatch):
    prompts = torch.tensor([[0, 0, 7], [8, 5, 7], [3, 2, 7], [1, 6, 7]])
    sampled_from = []
    monkeypatch.setattr(
        generation, "sample", lambda logits, *_: sampled_from.append(logits) or sample(logits)
    )
    drawn(model, prompts, 1)
    with torch.no_grad():
        logits, _ = model(prompts)
    assert sampled_from[0].equal(logits[:, -1])
    assert len(sampled_from[0].unique(dim=0)) == 4


def test_the_prompt_goes_through_in_one_pass_and_then_one_step_a_token(model, monkeypatch):
    passes, steps = [], []
    forward, step = Landauer.forward, Landauer.step
    monkeypatch.setattr(Landauer, "forward", lambda *a: passes.append(a[1].shape) or forward(*a))
    monkeypatch.setattr(Landauer, "step", lambda *a: steps.append(a[1].shape) or step(*a))
    drawn(model, torch.zeros(1, 50, dtype=torch.long), 10)
    assert passes == [(1, 50)]
    assert steps == [(1,)] * 9


def test_a_long_prompt_is_read_in_pieces_and_counts_as_a_whole(model, monkeypatch):
    prompt = torch.randint(5, (1, 50), generator=torch.Generator().manual_seed(2))
    expected = drawn(model, prompt, 10, temperature=0)
    monkeypatch.setattr("phasefield.generation._PASS", 16)
    passes, forward = [], Landauer.forward
    monkeypatch.setattr(Landauer, "forward", lambda *a: passes.append(a[1].shape[1]) or forward(*a))
    assert torch.equal(drawn(model, prompt, 10, temperature=0), expected)
    assert passes == [16, 16, 16, 2]


def test_tokens_come_one_by_one_without_leaving_inference_mode_on(model):
    stream = stream_tokens(model, torch.zeros(1, 2, dtype=torch.long), 5)
    next(stream)
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()
    assert sum(1 for _ in stream) == 4


def test_the_same_generator_gives_the_same_text(model):
    prompt = torch.zeros(1, 2, dtype=torch.long)
    first, again, other = (
        drawn(model, prompt, 50, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert first.equal(again)
    assert not first.equal(other)


def test_no_new_tokens_are_none(model):
    assert list(stream_tokens(model, torch.zeros(1, 2, dtype=torch.long), 0)) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens is -1"),
        ({"temperature": -0.5}, "temperature is -0.5"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"prompt": torch.zeros(1, 0, dtype=torch.long)}, r"prompt has shape \[1, 0\]"),
        ({"prompt": torch.zeros(3, dtype=torch.long)}, r"prompt has shape \[3\]"),
    ],
)
def test_arguments_out_of_range_are_named(options, message, model):
    options = {"prompt": torch.zeros(1, 1, dtype=torch.long), "max_new_tokens": 1, **options}
    with pytest.raises(ValueError, match=message):
        next(stream_tokens(model, **options))


PROBABILITIES = [0.1, 0.4, 0.2, 0.3]


def kept(**options):
    logits = torch.tensor([PROBABILITIES]).log()
    before = logits.clone()
    filtered = filter_logits(logits, **options)
    assert logits.equal(before)  # never in place
    return filtered[0].isfinite().tolist()


def test_top_k_keeps_the_k_likeliest():
    assert kept(top_k=2) == [False, True, False, True]
    assert kept(top_k=0) == kept(top_k=4) == kept(top_k=99) == [True] * 4


def test_top_p_keeps_the_token_that_crosses_p():
    assert kept(top_p=0.01) == [False, True, False, False]
    assert kept(top_p=0.39) == [False, True, False, False]
    assert kept(top_p=0.5) == [False, True, False, True]
    assert kept(top_p=0.75) == [False, True, True, True]
    assert kept(top_p=0.95) == kept(top_p=1.0) == [True] * 4


def test_top_p_counts_what_top_k_left():
    # 0.4 and 0.3 are left, as 0.57 and 0.43.
    assert kept(top_k=2, top_p=0.56) == [False, True, False, False]
    assert kept(top_k=2, top_p=0.58) == [False, True, False, True]


def test_temperature_sharpens_without_overflow():
    logits = torch.tensor([[3e38, 0.0, -3e38]])
    assert filter_logits(logits, temperature=1e-30).softmax(-1).tolist() == [[1.0, 0.0, 0.0]]
    flat = filter_logits(torch.tensor([[1.0, 2.0]]), temperature=1e6).softmax(-1)
    assert torch.allclose(flat, torch.tensor([[0.5, 0.5]]), atol=1e-5)


def test_samples_follow_the_distribution():
    logits = torch.tensor(PROBABILITIES).log().expand(20_000, 4)
    counts = sample(logits, generator=torch.Generator().manual_seed(0)).bincount(minlength=4) / 20_000
    # Four standard deviations of a share of 20,000 draws: 4 · √(0.24 / 20,000) = 0.014.
    assert torch.allclose(counts, torch.tensor(PROBABILITIES), atol=0.014)
