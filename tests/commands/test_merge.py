"""``phasefield merge``: two trainings become one checkpoint, or a message says why not."""

import pytest

from phasefield import cli
from phasefield.errors import UserError
from phasefield.training import load_model
from phasefield.training.run_folder import RunFolder

TEXTS = ("the cat sat on the mat. " * 40, "some dog ran to the gate. the cat hid. " * 40)


def train(folder, model, text, *flags):
    path = folder.with_suffix(".txt")
    path.write_text(text)
    size = ["--batch-size", "2", "--seq-len", "32", "--steps", "6", "--eval-every", "6", "--device", "cpu"]
    run = ["train", model, "--data-path", str(path), "--save-dir", str(folder), "--log-with", "none"]
    assert cli.dispatch([*run, *size, *flags]) == 0


def field(folder, text, *flags):
    train(folder, "field", text, "--sites", "4096", "--horizon", "16", *flags)


def test_two_trainings_become_one_that_writes_both(tmp_path, capsys):
    first, second, merged = (tmp_path / name for name in ("first", "second", "merged"))
    field(first, TEXTS[1])
    field(second, TEXTS[0], "--tokenizer", str(RunFolder(first).latest()))
    assert cli.dispatch(["merge", str(first), str(second), "--save-dir", str(merged)]) == 0
    assert "2 models" in capsys.readouterr().out
    model, tokenizer = load_model(RunFolder(merged).latest())
    parts = [load_model(RunFolder(folder).latest())[0] for folder in (first, second)]
    phases, _, _ = model.phases(tokenizer.encode(TEXTS[0][:60])[None])
    summed = sum(part.crystal.evidence(phases)[..., 0] for part in parts)
    assert (model.crystal.evidence(phases)[..., 0] == summed).all()
    assert cli.dispatch(["evaluate", "--checkpoint", str(merged), "--device", "cpu"]) == 0


def test_what_cannot_be_merged_is_said(tmp_path):
    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    field(first, TEXTS[0])
    with pytest.raises(UserError, match="takes two or more"):
        cli.dispatch(["merge", str(first)])
    with pytest.raises(UserError, match="--save-dir is ''"):
        cli.dispatch(["merge", str(first), str(first), "--save-dir="])
    field(second, TEXTS[1].replace("d", "x"))
    with pytest.raises(UserError, match="it is trained with --tokenizer"):
        cli.dispatch(["merge", str(first), str(second), "--save-dir", str(tmp_path / "merged")])
    with pytest.raises(UserError, match="already"):
        cli.dispatch(["merge", str(first), str(first), "--save-dir", str(second)])
    field(other, TEXTS[0], "--orders", "3")
    with pytest.raises(UserError, match="other has orders 3"):
        cli.dispatch(["merge", str(first), str(other), "--save-dir", str(tmp_path / "merged")])
    assert not (tmp_path / "merged").exists()


def test_only_fields_are_merged(tmp_path):
    train(
        tmp_path / "gpt", "nanogpt", TEXTS[0], "--hidden-dim", "16", "--num-layers", "1", "--num-heads", "2"
    )
    with pytest.raises(UserError, match="no field model"):
        cli.dispatch(
            ["merge", str(tmp_path / "gpt"), str(tmp_path / "gpt"), "--save-dir", str(tmp_path / "m")]
        )
