import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from phasefield.data import CharTokenizer, Corpus
from phasefield.models import Landauer, LandauerConfig
from phasefield.training import evaluate
from phasefield.training.evaluation import Evaluation, validation_ids


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Landauer(LandauerConfig(11, embed_dim=4, hidden_dim=6, energy_weight=0.5, temperature=2.0))


@pytest.fixture
def ids():
    return torch.randint(11, (101,), generator=torch.Generator().manual_seed(1))


def test_every_token_but_the_first_is_predicted_once_from_a_fresh_state(model, ids):
    expected = 0.0
    with torch.no_grad():
        for begin in range(0, 100, 7):
            window = ids[begin : begin + 8]
            logits, _ = model(window[None, :-1])
            expected += F.cross_entropy(logits[0], window[1:], reduction="sum").item()
    result = evaluate(model, ids, batch_size=4, seq_len=7)
    assert result.tokens == 100
    assert result.terms["content"] == pytest.approx(expected / 100, rel=1e-6)
    assert result.bits_per_character == pytest.approx(expected / 100 / math.log(2), rel=1e-6)
    assert result.total == pytest.approx(result.terms["content"] + 0.5 * result.terms["energy"], rel=1e-6)


def test_the_batch_size_does_not_change_the_result(model, ids):
    one, many = evaluate(model, ids, 1, 7), evaluate(model, ids, 64, 7)
    assert one.total == pytest.approx(many.total, rel=1e-6)
    assert one.tokens == many.tokens


def test_it_is_the_same_every_time_and_draws_no_random_numbers(model, ids):
    before = torch.get_rng_state()
    assert evaluate(model, ids, 4, 7) == evaluate(model, ids, 4, 7)
    assert torch.get_rng_state().equal(before)


def test_a_stream_has_the_content_of_one_pass_over_the_whole_text(model, ids):
    with torch.no_grad():
        logits, _ = model(ids[None, :-1])
    expected = F.cross_entropy(logits[0], ids[1:]).item()
    result = evaluate(model, ids, 4, 7, stateful=True)
    assert result.tokens == 100
    assert result.terms["content"] == pytest.approx(expected, rel=1e-6)
    assert evaluate(model, ids, 4, 7).terms["content"] != pytest.approx(expected, rel=1e-4)


def test_a_stream_needs_a_state(model, ids):
    loss = model.loss
    model.loss = lambda *arguments: replace(loss(*arguments), state=None)
    with pytest.raises(ValueError, match="the model has no state to carry"):
        evaluate(model, ids, 4, 7, stateful=True)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_is_restored(training, model, ids):
    model.train(training)
    modes = []
    model.register_forward_pre_hook(lambda *_: None)
    loss = model.loss
    model.loss = lambda *arguments: (modes.append(model.training), loss(*arguments))[1]
    evaluate(model, ids, 4, 7)
    assert set(modes) == {False}
    assert model.training is training


def test_a_split_too_short_to_predict_anything_is_refused():
    tokenizer = CharTokenizer.from_text("ab")
    with pytest.raises(ValueError, match=r"the validation split of tiny has 1 token"):
        validation_ids(Corpus("tiny", "aaaaabbb", "b"), tokenizer)


def test_perplexity_a_word_and_a_byte_does_not_depend_on_how_many_tokens_a_text_takes():
    text = "zwölf Boxkämpfer\n jagen"  # 3 words, 23 characters, 25 bytes
    for tokens, content in ((6, 2.5), (15, 1.0)):
        result = Evaluation(content, {"content": content}, tokens, len(text))
        assert result.bits_per_character == pytest.approx(15 / 23 / math.log(2))
        assert result.perplexities(text) == pytest.approx({"word": math.exp(5), "byte": math.exp(0.6)})
    assert Evaluation(1.0, {"content": 1.0}, 6, 6, "masked cross-entropy").perplexities(text) is None
    assert Evaluation(9.0, {"content": 9.0}, 900, 900).perplexities("x" * 900)["word"] == math.inf
