"""The tuner: changes are ranked by their machine code, searched by time, and written back as they are."""

import importlib
import importlib.util
import shutil

import pytest

pytest.importorskip("triton")

from benchmarks.compile_gate import CompiledKernel
from benchmarks.machine_code import MachineCode
from benchmarks.tables import changes, rewrite, tables
from benchmarks.targets import TARGETS
from benchmarks.tune import OPS_OF, Ranked, predict, ranked, search
from phasefield_kernels.device import for_architecture
from phasefield_kernels.rows import Config

TARGET = TARGETS["sm_86"]
ROW = (Config(block=32, steps=8, num_warps=1), Config(block=128, steps=8, num_warps=2))


def compiled(instructions, *, block=32, occupancy=0.5, spilled=0):
    counts = {"FFMA": instructions, "LDG.32": 99}
    code = MachineCode(64, spilled, 0, 0, 1, occupancy, "registers", 0, counts)
    return CompiledKernel("kernel", f"STEPS=8 BLOCK={block} warps=1", "", ("case",), 0, code)


def configs(folder):
    return importlib.import_module(f"phasefield_kernels.{folder}.configs")


def test_a_change_that_spills_comes_after_all_others_and_one_that_does_not_compile_last():
    candidates = list(changes(ROW))
    shipped = predict([compiled(100)], TARGET)
    outcomes = {
        # Half of the work a program for less than half of the instructions: but it spills.
        "spills": predict([compiled(10, spilled=4), compiled(10)], TARGET),
        "broken": None,
        "slower": predict([compiled(150)], TARGET),
        "wider": predict([compiled(150, block=64)], TARGET),
        "starved": predict([compiled(150, block=64, occupancy=1 / 16)], TARGET),
    }
    found = [
        Ranked(change._replace(name=name), shipped, outcome)
        for change, (name, outcome) in zip(candidates, outcomes.items(), strict=False)
    ]
    order = [candidate.change.name for candidate in ranked(found)]
    assert order == ["wider", "slower", "starved", "spills", "broken"]
    assert [round(candidate.ratio, 3) for candidate in ranked(found)[:3]] == [0.75, 1.5, 3.0]


def test_changes_double_and_halve_every_number_but_no_switch():
    assert [str(change) for change in changes(ROW)] == [
        *("0.block 32 -> 16", "0.block 32 -> 64", "0.steps 8 -> 4", "0.steps 8 -> 16"),
        "0.num_warps 1 -> 2",
        *("1.block 128 -> 64", "1.block 128 -> 256", "1.steps 8 -> 4", "1.steps 8 -> 16"),
        *("1.num_warps 2 -> 1", "1.num_warps 2 -> 4"),
    ]
    memories = next(table for table in tables(configs("hebbian_scan")) if table.key == (True, False, True))
    names = {change.name for change in changes(memories.rows[80])}
    assert "64.gradient.block" in names
    assert "64.resident" not in names


def test_the_search_keeps_what_is_faster_by_more_than_noise():
    def time(row):
        return abs(row[0].steps - 4) + 0.01 * abs(row[1].block - 256) + 10

    row = search(ROW, lambda row, change: time(change.row) / time(row))
    assert row == (Config(32, 4, 1), Config(256, 8, 2))
    assert search(ROW, lambda row, change: 0.98) == ROW


@pytest.mark.parametrize("folder", OPS_OF)
@pytest.mark.parametrize("number", [80, 121])
def test_a_rewritten_table_holds_the_new_row_and_its_others(folder, number, tmp_path):
    path = tmp_path / "configs.py"
    module = configs(folder)
    shutil.copy(module.__file__, path)
    written = {}
    for table in tables(module):
        row = list(changes(for_architecture(table.rows, number)))[-1].row
        for _ in range(2):  # a second time in place of the first
            rewrite(table._replace(source=path), number, row, "a device")
        written[table.name, table.key] = table.rows | {number: row}
    # Under the op's own name, so that its relative imports and classes are the same.
    spec = importlib.util.spec_from_file_location(module.__name__, path)
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    assert {(table.name, table.key): table.rows for table in tables(again)} == written
    assert path.read_text(encoding="utf-8").count("# Measured on a device.") == len(written)
