"""The bench files under pytest: collected when asked for, stored, played to pytest-benchmark."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.bench_rotation_scan import CONSTANT
from benchmarks.operation import LENGTHS, races
from phasefield_kernels import native as native_forms

ROOT = Path(__file__).parents[2]


def _pytest(*arguments, **environment):
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)
    ours = ("TRITON_INTERPRET", "PYTEST_")  # what this process was told: its interpreter, its part of a run
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return subprocess.run(
        command, cwd=ROOT, env=clean | environment, capture_output=True, text=True, check=False
    )


def _backends():
    return ["torch"] if native_forms.compiler() is None else ["native", "torch"]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored")
    rows, native = folder / "rows.json", folder / "native.json"
    done = _pytest(
        *("benchmarks/bench_linoss_scan.py", "--benchmark-only", "-k", "typical and float32 and step"),
        *("--store", rows, "--note", "A test.", f"--benchmark-json={native}"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(rows.read_text("utf-8")), json.loads(native.read_text("utf-8"))


def test_rows_are_stored_with_their_settings(stored):
    content, _ = stored
    ours = [f"phasefield {backend}" for backend in _backends()]
    assert [row["competitor"] for row in content["rows"]] == ["eager step", *ours]
    (settings,) = content["settings"]
    assert settings["torch"]
    assert settings["note"] == "A test."
    assert settings["rates"]["copy_gb_s"]
    assert all(row["settings"] == 0 and row["median_ms"] > 0 for row in content["rows"])


def test_pytest_benchmark_has_the_same_medians(stored):
    content, native = stored
    medians = {b["extra_info"]["competitor"]: b["stats"]["median"] * 1e3 for b in native["benchmarks"]}
    for row in content["rows"]:
        # The row is rounded to four digits; pytest-benchmark's clock adds samples up.
        assert medians[row["competitor"]] == pytest.approx(row["median_ms"], rel=1e-3)
    assert native["machine_info"]["phasefield"]["torch"] == content["settings"][0]["torch"]


def test_the_full_set_holds_lengths_and_the_quick_set_does_not():
    found = list(races(CONSTANT))
    lengths = {race.shape["T"] for race in found if race.part == "lengths"}
    assert lengths == set(LENGTHS)
    assert {race.part for race in found if race.quick} == {"typical", "long"}
    named = f"test_rotation_scan[{next(race for race in found if race.quick)}-phasefield torch]"
    done = _pytest("benchmarks/bench_rotation_scan.py", "--collect-only", "--benchmark-only")
    assert named in done.stdout
    assert "lengths" not in done.stdout
