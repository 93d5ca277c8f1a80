"""`analyze`: the field's numbers against the model's own, the files, and what it cannot look into."""

import json

import pytest
import torch
from PIL import Image

from phasefield import command_line
from phasefield.analysis.field import effective_rank, observe
from phasefield.cli import dispatch
from phasefield.data import CharTokenizer
from phasefield.models import Field, FieldConfig
from phasefield.training import find_checkpoint, load_model

TEXT = "3 bottles stood on"


@pytest.fixture
def field(field_workplace):
    return load_model(find_checkpoint("field"))


def test_what_is_observed_is_what_the_model_computes(field):
    model, tokenizer = field
    seen = observe(model, tokenizer, TEXT)
    tokens = tokenizer.encode(TEXT).unsqueeze(0)
    assert "".join(seen.symbols) == TEXT
    torch.testing.assert_close(seen.surprise.mean(), model.loss(tokens[:, :-1], tokens[:, 1:]).total)
    assert torch.equal(seen.coherence, model.read(tokens)[0].coherence[0])
    assert seen.threshold == model.coherence_quantile(0.91)


def test_gravity_between_positions_is_what_gives_each_token_its_pull(field):
    model, tokenizer = field
    text = "wal,bot\n7"  # every token once: then a token's pull is that of one position
    tokens = tokenizer.encode(text).unsqueeze(0)
    seen = observe(model, tokenizer, text)
    pull = model.read(tokens)[0].pulls[0][0] / 0.175  # in units of one trace
    torch.testing.assert_close(seen.gravity, pull[:, tokens[0]], atol=1e-3, rtol=1e-4)


def test_particles_fall_smoothly_and_the_first_one_rests(field):
    model, tokenizer = field
    seen = observe(model, tokenizer, TEXT)
    assert (seen.energy.diff() <= 1e-3).all()
    assert seen.energy[-1] < 2 * seen.energy[0]
    assert (seen.paths[:, 0] - seen.paths[0, 0]).abs().max() < 1e-5
    assert (seen.paths[-1] - seen.paths[0]).norm(dim=-1)[1:].min() > 0.01


def test_the_crystals_spectrum_is_that_of_what_followed_each_token(field):
    model, tokenizer = field
    seen = observe(model, tokenizer, TEXT)
    small = Field(FieldConfig(3, "0 1", 64, horizon=0))
    small.learn_(torch.tensor([[0, 1, 2] * 60]), torch.tensor([[1, 2, 0] * 60]), rate=0.0)
    vocabulary = torch.arange(3)
    p = [small(token.view(1, 1))[0].exp()[0, 0] for token in vocabulary]
    assert torch.linalg.matrix_rank(torch.stack(p)) == 3
    assert 2.9 < effective_rank(observe(small, CharTokenizer("abc"), "abc").spectrum) <= 3.001
    assert 1 < effective_rank(seen.spectrum) < tokenizer.vocab_size
    assert (seen.spectrum.diff() <= 0).all()


def test_analyze_draws_animates_and_keeps_its_numbers(field, capsys):
    arguments = ["analyze", TEXT, "--checkpoint", "field", "--save-path", "new/seen.png"]
    assert command_line.run(dispatch, arguments) == 0
    output, error = capsys.readouterr()
    assert error == ""
    assert f"tokens: {len(TEXT)}" in output
    assert "wrote seen.gif, seen.json, seen.png in new" in output
    with open("new/seen.json", encoding="utf-8") as file:
        numbers = json.load(file)
    seen = observe(*field, TEXT)
    assert numbers["coherence"] == seen.coherence.tolist()
    assert numbers["nats_per_token"] == pytest.approx(float(seen.surprise.mean()))
    with Image.open("new/seen.png") as picture, Image.open("new/seen.gif") as animation:
        assert picture.size == (1320, 1045)
        assert len(set(picture.convert("RGB").get_flattened_data())) > 100
        assert animation.n_frames > 20


def test_a_field_that_learnt_nothing_and_one_without_gravity_can_be_looked_into(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert command_line.run(dispatch, ["analyze", "--text", "Hello world", "--save-path", "field.png"]) == 0
    output, error = capsys.readouterr()
    assert "crystal rank: 1\n" in output
    assert error.startswith("warning: there is no saved_models here")
    assert (tmp_path / "field.png").stat().st_size > 20_000


@pytest.mark.parametrize(
    ("arguments", "code", "cause"),
    [
        (["analyze"], 2, "there is no text to read"),
        (["analyze", "7", "--text", "8"], 2, "--text is '8', and '7' is given too"),
        (["analyze", "7 bottles", "--save-path", "x.jpg"], 2, "--save-path is 'x.jpg'; it must be a file"),
        (["analyze", "7 ☃ bottles", "--checkpoint", "field"], 1, "'☃' at position 2"),
        (["analyze", "7", "--checkpoint", "field"], 1, "the text '7' has 1 tokens; a field needs at least 3"),
        (["analyze", "7 bottles", "--checkpoint", "nothing"], 1, "--checkpoint nothing does not exist"),
        (["analyze", "7 bottles", "--checkpoint", "field", "--save-path", "text.txt/x.png"], 1, "text.txt"),
    ],
)
def test_a_bad_call_is_one_paragraph_that_names_the_cause(arguments, code, cause, field_workplace, capsys):
    assert command_line.run(dispatch, arguments) == code
    output, error = capsys.readouterr()
    assert cause in error
    assert error.count("\n") == 1
    assert output == ""


def test_a_model_that_cannot_be_looked_into_is_named(workplace, capsys):
    assert command_line.run(dispatch, ["analyze", "7 bottles", "--checkpoint", "run"]) == 2
    assert (
        "the checkpoint's model is landauer; models that can be looked into: field" in capsys.readouterr().err
    )
