import json
import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from phasefield.errors import UserError
from phasefield.training import RunFlags, find_checkpoint, load_model
from phasefield.training.checkpoint import check_code, seal
from phasefield.training.run_folder import RunFolder

FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "trainer.json",
    "trainer.safetensors",
    "manifest.json",
)


@pytest.fixture
def checkpoint(flags, quietly):
    quietly(flags(steps=5, eval_every=5))
    return RunFolder(flags().run.save_dir).latest()


def test_a_loaded_model_is_the_saved_one(checkpoint):
    model, tokenizer = load_model(checkpoint)
    assert not model.training
    saved = load_file(checkpoint / "model.safetensors")
    assert all(value.equal(saved[name]) for name, value in model.state_dict().items())
    assert tokenizer.decode(tokenizer.encode("7 bottles")) == "7 bottles"


def test_a_checkpoint_holds_json_and_safetensors_only(checkpoint):
    names = {path.name for path in checkpoint.iterdir()}
    assert names >= set(FILES)
    assert {path.suffix for path in checkpoint.iterdir()} == {".json", ".safetensors"}
    config = json.loads((checkpoint / "config.json").read_text())
    assert config["model_type"] == "phasefield"
    assert config["model"] == "landauer"
    assert config["model_config"]["hidden_dim"] == 6
    assert config["phasefield_version"]


def test_nothing_is_ever_unpickled(checkpoint, flags, quietly, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("torch.load was called")

    monkeypatch.setattr(torch, "load", refuse)
    load_model(checkpoint)
    quietly(flags(steps=6, resume=True))


@pytest.mark.parametrize(("name", "load"), [("config.json", load_model), ("trainer.json", RunFlags.saved_in)])
def test_code_that_a_checkpoint_names_runs_only_if_the_user_names_it_too(
    name, load, checkpoint, tmp_path, monkeypatch
):
    code = tmp_path / "parts.py"
    code.write_text("from pathlib import Path\nPath(__file__).with_suffix('.ran').touch()\n")
    config = json.loads((checkpoint / name).read_text())
    config["model_config" if name == "config.json" else "model_flags"]["plugins"] = str(code)
    (checkpoint / name).write_text(json.dumps(config))
    (checkpoint / "manifest.json").unlink()
    seal(checkpoint)
    with pytest.raises(UserError, match=r"parts\.py.*PHASEFIELD_PLUGINS"):
        load(checkpoint)
    assert not code.with_suffix(".ran").exists()
    monkeypatch.setenv("PHASEFIELD_PLUGINS", str(code))
    check_code(checkpoint, {"plugins": str(code)})


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", ["missing", "truncated", "one bit flipped", "empty"])
def test_a_damaged_checkpoint_is_named_with_its_file(name, harm, checkpoint):
    path = checkpoint / name
    content = bytearray(path.read_bytes())
    if harm == "missing":
        path.unlink()
    elif harm == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif harm == "empty":
        path.write_bytes(b"")
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    # A flipped bit of the manifest makes the digest of some other file wrong, or its name.
    culprit = "" if (name, harm) == ("manifest.json", "one bit flipped") else name
    for load in (load_model, RunFlags.saved_in):
        with pytest.raises(UserError, match=rf"step-000005.*{culprit}") as error:
            load(checkpoint)
        assert "damaged" in str(error.value)


def test_weights_of_another_shape_are_refused_by_name(checkpoint):
    weights = load_file(checkpoint / "model.safetensors")
    weights["head.bias"] = weights["head.bias"][:-1].clone()
    save_file(weights, checkpoint / "model.safetensors")
    seal_again(checkpoint)
    with pytest.raises(UserError, match=r"(?s)cannot be loaded by phasefield .*head\.bias"):
        load_model(checkpoint)


def test_a_config_of_another_version_is_refused_with_both_versions(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    config["phasefield_version"] = "9.1"
    config["model_config"]["wings"] = 2
    (checkpoint / "config.json").write_text(json.dumps(config))
    seal_again(checkpoint)
    with pytest.raises(UserError, match=r"written by phasefield 9\.1.*wings"):
        load_model(checkpoint)


def test_a_config_from_before_transformers_could_read_it_still_loads(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    before = {"model_type": "landauer", "phasefield_version": "0.0", **config["model_config"]}
    (checkpoint / "config.json").write_text(json.dumps(before))
    seal_again(checkpoint)
    assert load_model(checkpoint)[0].config.hidden_dim == 6


def seal_again(checkpoint):
    (checkpoint / "manifest.json").unlink()
    seal(checkpoint)


def test_a_checkpoint_is_found_by_its_run_or_by_itself(checkpoint):
    assert find_checkpoint(checkpoint.parent) == checkpoint
    assert find_checkpoint(checkpoint) == checkpoint
    (checkpoint.parent / "best").unlink()
    assert find_checkpoint(checkpoint.parent) == checkpoint


def test_a_moved_checkpoint_still_loads(checkpoint, tmp_path):
    moved = shutil.copytree(checkpoint, tmp_path / "elsewhere")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(find_checkpoint(moved))


@pytest.mark.parametrize("where", ["nothing", "an empty folder", "a file"])
def test_a_place_without_a_checkpoint_is_named(where, tmp_path):
    path = tmp_path / "place"
    if where == "an empty folder":
        path.mkdir()
    elif where == "a file":
        path.write_text("x")
    with pytest.raises(UserError, match=r"--checkpoint .*place (does not exist|is no run's folder)"):
        find_checkpoint(path)
