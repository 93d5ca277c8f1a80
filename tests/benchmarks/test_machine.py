import subprocess

import pytest
import torch

from benchmarks import machine

RATES = {
    "copy_gb_s": {"1000": 10.0, "1000000": 2.0},
    "gemm_gflop_s": {"float32": 100.0, "bfloat16": 400.0},
    "exp_g_s": 0.5,
}


def test_the_bound_is_the_longest_of_bytes_operations_and_exponentials():
    assert machine.bound(500, 0, 0, "float32", RATES) == (pytest.approx(500 / 10e9), "copy")
    assert machine.bound(500, 1e6, 0, "float32", RATES) == (pytest.approx(1e-5), "gemm")
    assert machine.bound(500, 1e6, 0, "bfloat16", RATES) == (pytest.approx(2.5e-6), "gemm")
    assert machine.bound(500, 1e6, 1e6, "float32", RATES) == (pytest.approx(2e-3), "exp")


@pytest.mark.parametrize(("moved", "rate"), [(1000, 10e9), (1001, 2e9), (10**7, 2e9)])
def test_bytes_move_at_the_rate_of_the_next_larger_copy(moved, rate):
    assert machine.bound(moved, 0, 0, "float32", RATES)[0] == pytest.approx(moved / rate)


def test_rates_are_operations_over_the_clocks_time(monkeypatch):
    monkeypatch.setattr(machine, "PRODUCT", 64)
    monkeypatch.setattr(machine, "COPY_SIZES", (1 << 16, 1 << 20))

    class Clock:
        def seconds(self, call, repeats):
            call()
            return 1e-2 * repeats

    found = machine.rates("cpu", Clock(), budget=0)
    assert found["copy_gb_s"] == {str(size): round(size / 1e-2 / 1e9, 2) for size in machine.COPY_SIZES}
    product = round(2 * machine.PRODUCT**3 / 1e-2 / 1e9, 2)
    assert found["gemm_gflop_s"] == {"float32": product, "bfloat16": product}
    assert found["exp_g_s"] == round(65536 / 1e-2 / 1e9, 3)


def test_settings_name_what_moves_numbers(monkeypatch):
    monkeypatch.setenv("GOMP_SPINCOUNT", "0")
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "17")
    found = machine.settings("cpu")
    assert found["threads"] == torch.get_num_threads()
    assert found["GOMP_SPINCOUNT"] == "0"
    assert found["malloc"]["MALLOC_TRIM_THRESHOLD_"] == "17"
    assert found["torch"] == torch.__version__
    assert found["device"] == found["cpu"] == machine.cpu_name()


def test_a_commit_with_changed_files_is_marked(monkeypatch, tmp_path):
    def git(*arguments):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(("git", "-C", tmp_path, *identity, *arguments), check=True, capture_output=True)

    monkeypatch.setattr(machine, "ROOT", tmp_path)
    git("init")
    (tmp_path / "data.json").write_text("one")
    (tmp_path / "file.py").write_text("one")
    git("add", ".")
    git("commit", "-m", "one")
    clean = machine.settings("cpu")["commit"]
    assert len(clean) == 12
    (tmp_path / "data.json").write_text("two")
    assert machine.settings("cpu")["commit"] == clean
    (tmp_path / "file.py").write_text("two")
    assert machine.settings("cpu")["commit"] == clean + "+"


def test_outside_a_checkout_there_is_no_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    assert machine.settings("cpu")["commit"] is None
