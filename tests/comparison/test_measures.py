"""What a comparison measures, against definitions written out and numbers known beforehand."""

import math
import random
import string

import pytest
import torch

from phasefield.comparison.judge import Judge
from phasefield.comparison.matching import match
from phasefield.comparison.plan import CompareFlags
from phasefield.comparison.quality import Critic, prompts_and_continuations, write
from phasefield.comparison.speed import decoding_speed, peak_bytes, training_speed
from phasefield.data import Corpus
from phasefield.errors import UsageError
from phasefield.models import MODELS, Landauer, LandauerConfig
from phasefield.training import TrainConfig
from tests.machinery.toy_models import ToyConfig, ToyFiller, ToyRecurrent

CPU = torch.device("cpu")


class TestJudge:
    TEXT = "".join(random.Random(0).choices("aab \n", k=200))

    def test_it_is_witten_and_bells_recursion(self):
        def defined(character, history):
            below = 1 / 5 if not history else defined(character, history[1:])  # a, b, space, break, all else
            places = [i for i in range(len(self.TEXT)) if self.TEXT[:i].endswith(history)]
            following = [self.TEXT[i] for i in places]
            if not following:
                return below
            different = len(set(following))
            return (following.count(character) + different * below) / (len(following) + different)

        judge = Judge(self.TEXT, order=4)
        for context in ("", "a", "ab", "aab", "b a\n", "☃ab", "ab☃"):
            for character in "ab \n☃":
                assert judge.probability(character, context) == pytest.approx(
                    defined(character, context[-3:])
                )

    @pytest.mark.parametrize("context", ["", "aab", "zzz", "b\n"])
    def test_its_probabilities_are_one_together(self, context):
        judge = Judge(self.TEXT, order=4)
        assert sum(judge.probability(character, context) for character in "ab \n☃") == pytest.approx(1)

    def test_it_prefers_the_text_it_knows(self):
        judge = Judge("the cat sat on the mat. " * 20)
        known, turned, strange = (
            judge.nats_per_character(text) for text in ("the cat sat", "tas tac eht", "☃☃☃☃☃")
        )
        assert known < 1 < turned < strange < math.inf
        assert judge.nats_per_character("") is None

    def test_what_stands_before_counts_as_context_only(self):
        judge = Judge(self.TEXT, order=3)
        nats = -math.log(judge.probability("a", "ab")) - math.log(judge.probability("b", "ba"))
        assert judge.nats_per_character("ab", before="aab") == pytest.approx(nats / 2)


class TestCritic:
    CORPUS = Corpus("text", "to be or not to be that is the question", "")

    def test_variety_and_copies_are_shares_of_n_grams_of_words(self):
        scores = Critic(self.CORPUS).scores(["", ""], ["to be or not or not", "to be"])
        assert scores["distinct-1"] == 4 / 8
        assert scores["distinct-2"] == 4 / 6  # to be, be or, or not, not or
        assert scores["distinct-3"] == 4 / 4
        assert scores["copied"] == 1 / 3  # to be or not, be or not or, or not or not
        assert scores["judge"] > 0

    def test_where_there_is_nothing_to_count_there_is_no_score(self):
        assert set(Critic(self.CORPUS).scores([""], [""]).values()) == {None}


def test_prompts_are_spread_over_the_split_and_followed_by_what_follows_them():
    ids = torch.arange(8 * 400 + 3)
    prompts, continuations = prompts_and_continuations(ids)
    assert prompts.shape == (8, 64)
    assert continuations.shape == (8, 256)
    assert (prompts[:, 0] == torch.arange(8) * 400).all()
    assert (continuations[:, 0] == prompts[:, -1] + 1).all()
    short, rest = prompts_and_continuations(torch.arange(41))
    assert (short.shape, rest.shape) == ((8, 1), (8, 4))
    with pytest.raises(ValueError, match="has 15 tokens"):
        prompts_and_continuations(torch.arange(15))


@pytest.mark.parametrize("kind", [ToyRecurrent, ToyFiller])
def test_writing_repeats_with_its_seed(kind):
    model = kind(ToyConfig(9)).eval()
    prompts = torch.randint(9, (3, 5), generator=torch.Generator().manual_seed(0))
    first, again, other = (write(model, prompts, 20, seed) for seed in (1, 1, 2))
    assert first.shape == (3, 20)
    assert first.equal(again)
    assert not first.equal(other)


@pytest.mark.usefixtures("toys")
class TestMatching:
    @pytest.mark.parametrize("name", ["toy_recurrent", "toy_bigram", "landauer"])
    @pytest.mark.parametrize("target", [5_000, 20_000, 123_456])
    def test_a_width_near_the_target_is_found(self, name, target):
        matched = match(name, "tiny", 65, 8, target)
        assert abs(matched.parameters / target - 1) <= 0.02

    def test_only_the_width_changes_and_a_multiple_of_eight_is_preferred(self):
        plain, matched = match("landauer", "tiny", 65, 8, None), match("landauer", "tiny", 65, 8, 500_000)
        changed = {k for k, v in plain.model_flags.items() if matched.model_flags[k] != v}
        assert changed == {"hidden_dim"}
        assert matched.model_flags["hidden_dim"] % 8 == 0
        assert match("toy_recurrent", "tiny", 65, 8, None).model_flags["hidden_dim"] == 8

    def test_widths_that_the_model_refuses_do_not_count(self, toys, monkeypatch):
        monkeypatch.setattr(ToyConfig, "heads", 3)
        monkeypatch.setattr(ToyConfig.__init__, "__defaults__", (9, 3))
        matched = match("toy_bigram", "tiny", 65, 8, 20_000)
        assert matched.model_flags["hidden_dim"] % 3 == 0

    def test_a_target_out_of_reach_is_refused(self):
        with pytest.raises(
            UsageError, match=r"no hidden_dim gives toy_bigram about 10 parameters; the nearest"
        ):
            match("toy_bigram", "tiny", 65, 8, 10)

    def test_operations_are_six_a_parameter_unless_the_model_says_otherwise(self):
        recurrent = match("toy_recurrent", "tiny", 65, 8, None)
        assert recurrent.flops_per_token == 6 * recurrent.parameters
        assert match("toy_bigram", "tiny", 65, 8, None).flops_per_token == 8_000

    def test_every_model_that_is_compared_names_a_width_that_it_has(self):
        for name in CompareFlags().names:
            assert MODELS[name].width in MODELS[name].config_class.__dataclass_fields__, name

    def test_models_without_parameters_are_refused_by_name(self):
        assert "field" not in CompareFlags().names
        with pytest.raises(UsageError, match="field, which learns by local rules"):
            _ = CompareFlags(models=("nanogpt", "field")).names

    def test_a_look_at_a_model_draws_nothing(self):
        before = torch.get_rng_state()
        match("landauer", "tiny", 65, 8, 200_000)
        assert torch.get_rng_state().equal(before)


class TestMemory:
    def test_the_peak_is_what_is_there_at_the_same_time(self):
        x = torch.ones(1000, 250)  # a million bytes

        def three_at_most():
            a = x + 1
            b = a + 1
            del a
            c = b + 1
            return c + b

        # A sum leaves nothing else behind: two live, then three.
        assert peak_bytes(three_at_most, CPU) == pytest.approx(3e6, rel=1e-3)

    def test_what_a_recurrent_model_keeps_does_not_grow_with_the_prompt(self):
        model = ToyRecurrent(ToyConfig(9)).eval()
        short, long = (decoding_speed(model, torch.zeros(1, T, dtype=torch.int64)) for T in (3, 60))
        assert short["state_bytes"] == long["state_bytes"] == 3 * 8 * 4
        assert short["peak_bytes"] < long["peak_bytes"]
        assert short["tokens_per_second"] > 0

    def test_a_long_prompt_is_read_in_passes_whose_memory_does_not_grow_with_it(self, monkeypatch):
        monkeypatch.setattr("phasefield.generation._PASS", 16)
        model = ToyRecurrent(ToyConfig(9)).eval()
        short, long = (decoding_speed(model, torch.zeros(1, T, dtype=torch.int64)) for T in (48, 480))
        assert short["peak_bytes"] == long["peak_bytes"]

    def test_a_model_that_drafts_keeps_nothing(self):
        cell = decoding_speed(ToyFiller(ToyConfig(9)), torch.zeros(1, 3, dtype=torch.int64))
        assert cell["state_bytes"] is None

    def test_training_counts_weights_moments_gradients_and_activations(self):
        model = Landauer(LandauerConfig(9, embed_dim=4, hidden_dim=100))
        numbers = sum(parameter.numel() for parameter in model.parameters())
        config = TrainConfig(batch_size=2, seq_len=5, gradient_accumulation=2)
        result = training_speed(model, torch.zeros(50, dtype=torch.int64), config, CPU)
        # Weights, two moments and gradients; activations of 20 tokens are far fewer.
        assert 16 * numbers < result["peak_bytes"] < 24 * numbers
        tokens = result["tokens_per_second"] * result["seconds_per_step"]
        assert tokens == pytest.approx(2 * 5 * 2)


def test_the_alphabet_of_the_judge_is_the_texts():
    text = string.ascii_lowercase * 3
    assert Judge(text, order=1).probability("a", "") == pytest.approx((3 + 26 / 27) / (78 + 26))
