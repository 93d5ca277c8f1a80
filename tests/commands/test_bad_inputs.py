"""Whatever a user gets wrong: one paragraph that names it, before any work, and no traceback."""

import json
import shutil

import pytest

from phasefield import command_line
from phasefield.cli import dispatch

TRAIN = "train --data-path text.txt --save-dir new --device cpu --steps 3 --log-with none"
TOY = TRAIN.replace("train", "train toy_recurrent")
PHASE_FIELD = TRAIN.replace("train", "train phase_field")
GENERATE = "generate --checkpoint run"
EVALUATE = "evaluate --checkpoint run"
CHAT = "chat --checkpoint run"
COMPARE = "compare --data-path text.txt --save-dir new --device cpu --steps 3"

# The command line, its exit code, and what the error must say.
BAD_INPUTS = {
    "an unknown command": ("trian", 2, "no command 'trian'; the commands are train"),
    "an unknown model": ("train landuaer", 2, "no model 'landuaer'; the models are landauer"),
    "an unknown flag": (f"{TRAIN} --hiden-dim 4", 2, "--hiden-dim"),
    "a flag of generate in train": (f"{TRAIN} --top-k 4", 2, "--top-k"),
    "a word for a number": (f"{TRAIN} --hidden-dim many", 2, "--hidden-dim"),
    "a flag without its value": ("train --batch-size", 2, "--batch-size"),
    "an unknown precision": (f"{TRAIN} --precision fp8", 2, "'fp8' for argument '--precision'"),
    "an unknown cell": (f"{TRAIN} --cell gru", 2, "'gru' for argument '--cell'"),
    "an empty batch": (f"{TRAIN} --batch-size 0", 2, "--batch-size is 0; it must be at least 1"),
    "a negative sequence": (f"{TRAIN} --seq-len -5", 2, "--seq-len is -5; it must be at least 1"),
    "no steps": (f"{TRAIN} --steps 0", 2, "--steps is 0; it must be at least 1"),
    "a learning rate of 0": (f"{TRAIN} --lr 0", 2, "--lr is 0.0; it must be above 0"),
    "a learning rate that is no number": (f"{TRAIN} --lr nan", 2, "--lr is nan"),
    "an unknown size": (
        f"{TOY} --size huge",
        2,
        "--size is 'huge', which toy_recurrent does not have; its sizes are tiny, small",
    ),
    "a size of a model without sizes": (f"{TRAIN} --size tiny", 2, "landauer does not have; it has no sizes"),
    "a size without its name": (f"{TOY} --size", 2, "--size"),
    "an unknown tokenizer": (
        f"{TRAIN} --tokenizer gtp2",
        1,
        "'gtp2'; allowed are char, gpt2, morphological, or a",
    ),
    "a folder without a tokenizer": (f"{TRAIN} --tokenizer run", 1, "run holds no tokenizer; it needs"),
    "no tokenizer": (f"{TRAIN} --tokenizer=", 2, "--tokenizer is ''; it must be char, morphological, gpt2"),
    "a negative decay": (f"{TRAIN} --weight-decay -1", 2, "--weight-decay is -1.0; it must be at least 0"),
    "a beta of 1": (f"{TRAIN} --beta2 1", 2, "--beta2 is 1.0; it must be at least 0 and below 1"),
    "a state that is not there": (
        f"{TRAIN.replace('train', 'train toy_bigram')} --stateful --seq-len 8",
        2,
        "--stateful: toy_bigram has no state to carry",
    ),
    "a negative clip": (f"{TRAIN} --grad-clip -1", 2, "--grad-clip is -1.0; it must be at least 0"),
    "a negative seed": (f"{TRAIN} --seed -1", 2, "--seed is -1; it must be at least 0"),
    "a warm-up longer than the run": (
        f"{TRAIN} --warmup-steps 9",
        2,
        "--warmup-steps is 9; it must be at most",
    ),
    "no accumulation": (f"{TRAIN} --gradient-accumulation 0", 2, "--gradient-accumulation is 0"),
    "a model without units": (f"{TRAIN} --hidden-dim 0", 2, "hidden_dim is 0; it must be at least 1"),
    "a model without layers": (f"{TRAIN} --num-layers 0 --cell lru", 2, "num_layers is 0; it must be"),
    "a model for no memory": (f"{TRAIN} --hidden-dim 99999999999", 1, "out of memory"),
    "a negative energy weight": (f"{TRAIN} --energy-weight -1", 2, "energy_weight is -1.0; it must be"),
    "a boundless temperature": (f"{TRAIN} --temperature inf", 2, "temperature is inf; it must be"),
    "a phase scaling of nothing": (f"{TRAIN} --phase-scaling 0", 2, "phase_scaling is 0.0; it must be above"),
    "a phase scaling beyond numbers": (
        f"{TRAIN} --phase-scaling 1e300 --num-layers 9",
        1,
        "phase_scaling is 1e+300; layer 2 divides",
    ),
    "a dropout of everything": (f"{TRAIN} --dropout 1", 2, "dropout is 1.0; it must be at least 0 and below"),
    "an unknown device": (f"{TRAIN} --device gpu", 2, "--device is 'gpu'; allowed are auto, cpu, cuda"),
    "a device that is not there": (f"{TRAIN} --device cuda:99", 1, "--device is 'cuda:99'"),
    "an unknown tracker": (f"{TRAIN} --log-with abacus", 1, "abacus"),
    "a tracker that is not there": (f"{TRAIN} --log-with dvclive", 1, "'dvclive', which is not installed"),
    "a text that is not there": (f"{TRAIN} --data-path nothing.txt", 1, "error: nothing.txt: No such file"),
    "a folder as text": (f"{TRAIN} --data-path run", 1, "run"),
    "a text that is not UTF-8": (
        f"{TRAIN} --data-path latin1.txt",
        1,
        "latin1.txt is not UTF-8: byte 0xe8 at position 8",
    ),
    "a text too short for a window": (f"{TRAIN} --data-path short.txt", 1, "seq_len 64"),
    "an empty text": (f"{TRAIN} --data-path empty.txt", 1, "empty.txt has 0 characters"),
    "an unknown dataset": (
        "train --dataset shakspere --save-dir new",
        1,
        "'shakspere'; known are shakespeare",
    ),
    "no epochs": (f"{TRAIN} --epochs 0", 2, "--epochs is 0.0; it must be above 0 and finite"),
    "no training samples": (
        f"{TRAIN} --max-train-samples 0",
        2,
        "--max-train-samples is 0; it must be at least 1",
    ),
    "a config that is not there": (f"{PHASE_FIELD} --config no.yaml", 1, "--config: no.yaml cannot be read"),
    "a text as config": (f"{PHASE_FIELD} --config text.txt", 2, "--config: text.txt ends in '.txt'"),
    "a config of unknown fields": (f"{PHASE_FIELD} --config my.json", 2, "my.json holds the unknown depth"),
    "a config of the tokenizer's": (f"{PHASE_FIELD} --config v.json", 2, "names vocab_size, which the token"),
    "a config of a model without": (f"{TRAIN} --config my.json", 2, "--config"),
    "no folder": (f"{TRAIN} --save-dir=", 2, "--save-dir is ''; it must be a folder"),
    "a folder that cannot be made": (f"{TRAIN} --save-dir text.txt/run", 1, "--save-dir text.txt/run"),
    "a folder with a run in it": (f"{TRAIN} --save-dir run", 1, "run already holds a run, at step-000200"),
    "nothing to resume": (f"{TRAIN} --resume", 1, "--resume: there is no checkpoint in new"),
    "another seed on resume": (
        "train --save-dir run --resume --seed 5",
        2,
        "--seed is 5, but the run in run",
    ),
    "another shape on resume": ("train --save-dir run --resume --hidden-dim 64", 2, "--hidden-dim is 64"),
    "another text on resume": (
        "train --save-dir run --resume --data-path other.txt",
        2,
        "text is not the one",
    ),
    "a checkpoint that is not there": (
        "generate --checkpoint nothing",
        1,
        "--checkpoint nothing does not exist",
    ),
    "a file as checkpoint": ("generate --checkpoint text.txt", 1, "--checkpoint text.txt is no run's folder"),
    "a damaged checkpoint": ("generate --checkpoint damaged", 1, "model.safetensors"),
    "a pointer to nothing": ("evaluate --checkpoint dangling", 1, "'step-000777', which is no checkpoint"),
    "a foreign checkpoint": ("generate --checkpoint foreign", 1, "manifest.json is missing"),
    "an unknown character": ([*GENERATE.split(), "--prompt", "bottles ☃"], 1, "'☃' at position 8"),
    "an empty prompt": ([*GENERATE.split(), "--prompt", ""], 2, "--prompt is ''; it must be at least one"),
    "a negative temperature": (f"{GENERATE} --temperature -1", 2, "--temperature is -1.0"),
    "a negative length": (f"{GENERATE} --max-new-tokens -1", 2, "--max-new-tokens is -1"),
    "a negative top-k": (f"{GENERATE} --top-k -1", 2, "--top-k is -1"),
    "a top-p of 0": (f"{GENERATE} --top-p 0", 2, "--top-p is 0.0"),
    "a top-p above 1": (f"{GENERATE} --top-p 1.5", 2, "--top-p is 1.5"),
    "a prompt twice": ([*GENERATE.split(), "7", "--prompt", "8"], 2, "--prompt is '8', and '7' is given too"),
    "no samples": (f"{GENERATE} --num-samples 0", 2, "--num-samples is 0; it must be at least 1"),
    "a field's flag for another model": (
        f"{GENERATE} --perturbation levy",
        2,
        "--perturbation is of the field",
    ),
    "an unknown perturbation": (f"{GENERATE} --perturbation cauchy", 2, "'cauchy' for argument"),
    "a collapse beyond coherence": (
        f"{GENERATE} --collapse absolute --collapse-at 2",
        2,
        "--collapse-at is 2.0",
    ),
    "what was not learnt to save": (
        f"{GENERATE} --save-dir new",
        2,
        "without --learn there is nothing to save",
    ),
    "drafts of a model without them": (f"{GENERATE} --show-thinking", 2, "has no drafts to show"),
    "a chat with nothing": ("chat --checkpoint nothing", 1, "--checkpoint nothing does not exist"),
    "a chat with a damaged checkpoint": ("chat --checkpoint damaged", 1, "model.safetensors"),
    "a chat with a misspelt flag": (
        f"{CHAT} --temprature 1",
        2,
        "Unrecognized options: --temprature, 1. Perhaps you meant --temperature FLOAT. (See phasefield chat",
    ),
    "a chat beyond probability": (f"{CHAT} --top-p 1.5", 2, "--top-p is 1.5; it must be above 0"),
    "a chat on no device": (f"{CHAT} --device gpu", 2, "--device is 'gpu'; allowed are"),
    "a comparison of an unknown model": (f"{COMPARE} --models landuaer", 2, "no model 'landuaer'"),
    "a comparison of nothing": (f"{COMPARE} --seeds 0", 2, "--seeds is 0; it must be at least 1"),
    "two budgets": (f"{COMPARE} --minutes 3", 2, "--steps and --minutes are given; one of them"),
    "a budget of nothing": ("compare --flops 0 --save-dir new", 2, "--flops is 0.0; it must be above 0"),
    "a comparison at an unknown size": (
        f"{COMPARE} --models toy_recurrent --size huge",
        2,
        "--size is 'huge', which toy_recurrent does not have",
    ),
    "parameters beyond every width": (
        f"{COMPARE} --models toy_recurrent --parameters 3",
        2,
        "no hidden_dim gives toy_recurrent about 3 parameters",
    ),
    "a prompt of nothing": (f"{COMPARE} --prompt-lengths 0 4", 2, "--prompt-lengths is [0, 4]; each must be"),
    "a comparison on too short a text": (f"{COMPARE} --data-path short.txt", 1, "prompts and continuations"),
    "a comparison of sequences longer than the text": (f"{COMPARE} --seq-len 9999", 1, "seq_len 9999"),
    "a comparison in no folder": (f"{COMPARE} --save-dir text.txt/new", 1, "--save-dir: text.txt/new cannot"),
    "a comparison to resume that is not there": (
        f"{COMPARE} --resume",
        1,
        "--resume: there is no comparison in new",
    ),
    "no windows to evaluate": (f"{EVALUATE} --batch-size 0", 2, "--batch-size is 0"),
    "a text of other characters": (f"{EVALUATE} --data-path other.txt", 1, "not in the vocabulary"),
}


@pytest.fixture
def places(workplace):
    (workplace / "latin1.txt").write_bytes("la première page ".encode("latin-1") * 50)
    (workplace / "short.txt").write_text("Too short a text.")
    (workplace / "empty.txt").touch()
    (workplace / "my.json").write_text('{"depth": 3}')
    (workplace / "v.json").write_text('{"vocab_size": 3}')
    (workplace / "other.txt").write_text("ABCDEFGHIJ" * 50)
    (workplace / "foreign").mkdir()
    (workplace / "foreign" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (workplace / "dangling").mkdir()
    (workplace / "dangling" / "best").write_text("step-000777\n")
    damaged = shutil.copytree(workplace / "run" / "step-000200", workplace / "damaged")
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])


@pytest.mark.parametrize("command", [TRAIN, GENERATE, EVALUATE, CHAT, COMPARE])
def test_an_unknown_backend_is_said_by_every_command(command, workplace, capsys, monkeypatch):
    monkeypatch.setattr("phasefield_kernels.backend._chosen", "cuda")
    assert command_line.run(dispatch, command.split()) == 1
    output, error = capsys.readouterr()
    assert error.startswith("error: PHASEFIELD_BACKEND is 'cuda'; allowed are auto, triton")
    assert output == ""


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_a_bad_input_is_one_paragraph_that_names_the_cause(case, places, workplace, toys, capsys):
    arguments, code, cause = BAD_INPUTS[case]
    before = sorted(path for path in workplace.rglob("*"))
    assert command_line.run(dispatch, arguments if isinstance(arguments, list) else arguments.split()) == code
    output, error = capsys.readouterr()
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert cause in error
    assert "Traceback" not in error
    assert output == ""
    assert sorted(path for path in workplace.rglob("*")) == before  # said before anything was made
