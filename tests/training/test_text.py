"""What a run reads: passes counted in steps, samples cut, texts by name or file, models by config file."""

import json
import sys

import pytest
import torch

from phasefield.data import CharTokenizer, Corpus, load_corpus
from phasefield.errors import UsageError, UserError
from phasefield.models.phase_field.registry import OBJECTIVES
from phasefield.train import parse
from phasefield.training import RunFlags, TrainConfig
from phasefield.training.text import training_tokens


def counted(text="abcd" * 50 + "e", tokens_per_step=20, **run):
    corpus, tokenizer = Corpus("it", text, ""), CharTokenizer.from_text(text)
    return training_tokens(RunFlags("landauer", TrainConfig(**run), {}), corpus, tokenizer, tokens_per_step)


@pytest.mark.parametrize(("epochs", "steps"), [(1, 10), (0.5, 5), (2.26, 23), (1e-9, 1)])
def test_epochs_are_counted_in_steps(epochs, steps):
    flags, ids = counted(epochs=epochs, steps=77, warmup_steps=7)
    assert len(ids) == 201
    assert (flags.run.steps, flags.run.epochs, flags.run.warmup_steps) == (steps, None, min(7, steps))
    assert counted(steps=77)[0].run.steps == 77


def test_samples_are_the_first_windows_and_epochs_are_over_them():
    flags, ids = counted(max_train_samples=5, seq_len=12, epochs=2)
    assert ids.equal(counted()[1][:61])
    assert flags.run.steps == 6
    assert len(counted(max_train_samples=1000)[1]) == 201


def test_a_run_resumed_for_more_epochs_goes_on_to_their_steps(flags, quietly):
    assert quietly(flags(epochs=0.02, steps=1)).step == 3
    resume = [f"--save-dir={flags().run.save_dir}", "--resume"]
    assert parse(resume).run.epochs is None
    assert quietly(parse([*resume, "--epochs", "0.04"])).step == 7


def test_a_cosine_that_was_begun_does_not_take_other_epochs(flags, quietly):
    quietly(flags(epochs=0.02, cosine=True))
    resume = [f"--save-dir={flags().run.save_dir}", "--resume", "--epochs", "0.04"]
    with pytest.raises(UsageError, match=r"--steps is 7, but the run in .* was started with 3"):
        quietly(parse(resume))


def test_the_origins_flags_are_taken():
    arguments = (
        "--max_train_samples 9 --max-length 32 --batch-size 2 --checkpoint-dir here --epochs 3 --lr 0.1"
    )
    run = parse(["phase_field", *arguments.split()]).run
    assert (run.max_train_samples, run.seq_len, run.batch_size, run.epochs) == (9, 32, 2, 3)
    assert (run.save_dir, run.lr) == ("here", 0.1)


def test_a_dataset_may_be_a_file_or_random(text_file):
    assert load_corpus(str(text_file)) == load_corpus(data_path=text_file)
    corpus = load_corpus("random")
    letters = torch.tensor(list(corpus.train.encode())).unique(return_counts=True)[1]
    assert len(letters) == 27
    # 180,000 draws: shares off by less than four standard deviations of √(p/n).
    assert (letters / letters.sum() - 1 / 27).abs().max() < 4 * (1 / 27 / 180_000) ** 0.5
    assert load_corpus("random") == corpus


WRITTEN = {"dim": 8, "num_layers": 2, "banks": {"mine": {"type": "context", "window": 3}}, "memories": {}}


def test_a_config_file_gives_the_models_flags_and_flags_beside_it_win(tmp_path):
    path = tmp_path / "model.json"
    path.write_text(json.dumps(WRITTEN))
    flags = parse(["phase_field", "--config", str(path), "--size", "tiny", "--num-layers", "1"]).model_flags
    assert (flags["dim"], flags["num_layers"], flags["memories"]) == (8, 1, {})
    assert flags["banks"] == {"mine": {"type": "context", "window": 3}}


def test_a_run_with_a_plugin_resumes_by_naming_its_config_again(tmp_path, flags, quietly):
    (tmp_path / "my_parts.py").write_text(
        "from phasefield.models.phase_field import register_objective\n"
        "from phasefield.models.phase_field.objectives import Energy\n"
        "register_objective('mine')(type('Mine', (Energy,), {}))\n"
    )
    config = WRITTEN | {"plugins": ["my_parts.py"], "objectives": "cross_entropy,mine"}
    (tmp_path / "model.json").write_text(json.dumps(config))
    run = flags().run
    arguments = [f"--data-path={run.data_path}", f"--save-dir={run.save_dir}", "--device=cpu"]
    arguments += ["--log-with=none", "--seq-len=8", "--batch-size=2"]
    with_config = [f"--config={tmp_path / 'model.json'}"]
    assert quietly(parse(["phase_field", *with_config, *arguments, "--steps=1", "--no-cosine"])).step == 1
    # As in another process, where nobody has named the plugin yet.
    (module,) = (name for name in sys.modules if name.startswith("phasefield_plugin_my_parts_"))
    del sys.modules[module], OBJECTIVES.entries["mine"]
    with pytest.raises(UserError, match=r"needs the Python code in .*my_parts\.py"):
        parse([*arguments, "--resume", "--steps=2"])
    assert quietly(parse(["phase_field", *with_config, *arguments, "--resume", "--steps=2"])).step == 2
    del OBJECTIVES.entries["mine"]
