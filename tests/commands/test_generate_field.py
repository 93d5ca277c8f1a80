"""What `generate` does with the field model: perturbed, collapsed, untrained, and learning as it goes."""

import pytest
import torch

from phasefield import command_line
from phasefield.cli import dispatch
from phasefield.generation import Decoding, LearningDecoding
from phasefield.training import find_checkpoint, load_model

FIELD = ["generate", "--checkpoint", "field", "--max-new-tokens", "30", "--seed", "3"]


@pytest.fixture
def call(field_workplace, capsys):
    """Run a command line in this process; what it printed on both streams."""

    def run(*arguments):
        assert command_line.run(dispatch, [str(argument) for argument in arguments]) == 0
        return capsys.readouterr()

    return run


def field():
    model, tokenizer = load_model(find_checkpoint("field"))
    return model, lambda text: tokenizer.encode(text).unsqueeze(0)


def nats(model, tokens, known=1):
    """Mean cross-entropy of a text from nothing, behind its first tokens."""
    logits, _ = model(tokens[:, :-1])
    return -logits.gather(-1, tokens[:, 1:, None])[0, known - 1 :].mean().item()


def test_a_field_that_learnt_nothing_writes_too_and_warns(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = ["generate", "The quantum field", "--perturbation", "levy", "--temperature", "0.9"]
    assert command_line.run(dispatch, [*line, "--max-new-tokens", "20", "--seed", "1"]) == 0
    output, error = capsys.readouterr()
    assert output.startswith("The quantum field")
    assert len(output) == len("The quantum field") + 20 + 1
    assert error.startswith("warning: there is no saved_models here")
    assert "phasefield train field" in error


def test_a_trained_field_is_perturbed_only_when_asked(call):
    def written(*flags):
        return call(*FIELD, "1", "--temperature", "2", *flags).out

    plain, noisy = written(), written("--perturbation", "levy")
    assert written() == plain
    assert written("--perturbation", "levy") == noisy
    assert written("--perturbation", "none") == plain
    # Perturbations draw from the same generator as the choices: other choices follow.
    assert len({plain, noisy, written("--perturbation", "beta"), written("--perturbation", "adaptive")}) == 4


def test_embeddings_are_another_code_of_the_same_memories(call):
    greedy = [*FIELD, "9 bottles stood", "--temperature", "0"]
    written = {name: call(*greedy, "--embedding", name).out for name in ("golden", "log_phase", "cone")}
    assert written["golden"] == call(*greedy).out
    assert all("on the wall" in text for text in written.values())


def test_samples_differ_and_stand_apart(call):
    output = call(*FIELD, "1", "--num-samples", "3", "--temperature", "3").out
    first, second, third = (part.split(" ---\n")[-1] for part in output.split("\n--- "))
    assert len({first, second, third}) == 3
    assert output.count("---") == 4
    assert all(part.startswith("1") for part in (first, second, third))


@pytest.mark.parametrize(("rule", "at"), [("quantile", 0.5), ("absolute", 0.4)])
def test_a_collapse_lets_one_predictor_speak(call, rule, at):
    collapsing = call(*FIELD, "1", "--collapse", rule, "--collapse-at", at).out
    assert collapsing == call(*FIELD, "1", "--collapse", rule, "--collapse-at", at).out
    model, encode = field()
    threshold = model.coherence_quantile(at) if rule == "quantile" else at
    text = encode("7 bottles stood on the wall")
    mixed, collapsed = model(text)[0], model(text, collapse=threshold)[0]
    coherent = model.read(text)[0].coherence >= threshold
    assert coherent.any()
    assert torch.equal(mixed[~coherent], collapsed[~coherent])
    assert not torch.equal(mixed[coherent], collapsed[coherent])


def test_learning_while_writing_leaves_the_crystal_of_the_whole_text(field_workplace):
    model, encode = field()
    prompt = encode("7 walls fell on 120 bottles.\n")
    decoding = LearningDecoding(model, 0.0)
    decoding.read(prompt)
    generator = torch.Generator().manual_seed(1)
    drawn = [decoding.draw(2.0, generator=generator) for _ in range(12)]
    decoding.learn()
    decoding.learn()  # nothing is left to learn
    text = torch.cat([prompt, torch.stack(drawn, dim=1)], dim=1)
    whole, _ = field()
    whole.learn_(text[:, :-1], text[:, 1:], rate=0.0)
    other = encode("7 bottles fell on 120 walls, 7 bottles stood.\n")
    torch.testing.assert_close(model(other)[0], whole(other)[0])
    assert torch.equal(model.coherences, whole.coherences)


def test_a_learning_text_predicts_what_a_still_one_does_until_something_was_learnt(field_workplace):
    model, encode = field()
    prompt = encode("7")
    tokens = []
    for decoding in (Decoding(model), LearningDecoding(model, 0.002)):
        decoding.read(prompt)
        tokens.append(decoding.draw(generator=torch.Generator().manual_seed(1)))
    assert torch.equal(*tokens)


def test_a_fact_in_the_prompt_is_likelier_afterwards_and_fades_when_contradicted(call):
    fact, known = "bottle 61 fell on 4.\n", len("bottle 61 fell on ")
    rest = "bottle 61 fell on 9.\n" * 6
    still, encode = field()
    learning = ["--learn", "--max-new-tokens", "0", "--save-dir"]
    call("generate", fact, "--checkpoint", "field", *learning, "learnt")
    call("generate", rest, "--checkpoint", "learnt", *learning, "later")
    before, learnt, later = (
        nats(load_model(find_checkpoint(folder))[0], encode(fact), known)
        for folder in ("field", "learnt", "later")
    )
    assert learnt < before - 0.5
    assert learnt < later
    # Without --learn a text leaves nothing behind.
    call("generate", fact, "--checkpoint", "field", "--perturbation", "beta", "--max-new-tokens", "3")
    assert nats(field()[0], encode(fact), known) == before == nats(still, encode(fact), known)


def test_a_model_that_has_learnt_can_be_evaluated_and_spoken_with(call):
    call(*FIELD, "7", "--learn", "--save-dir", "learnt")
    assert "content" in call("evaluate", "--checkpoint", "learnt", "--device", "cpu").out
    assert call("generate", "--checkpoint", "learnt", "--prompt", "7", "--max-new-tokens", "5").out[0] == "7"
