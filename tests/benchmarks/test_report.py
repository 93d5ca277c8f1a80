"""BENCHMARKS.md is what the stored data say, and nothing else."""

import json
import math
import re
from itertools import groupby

import pytest

from benchmarks import report, store
from benchmarks.sections import gpu, method, scaling, speed, training
from benchmarks.sections.plots import draw_plots
from benchmarks.sections.tables import number, table

SETTINGS = {
    "device": "a CPU", "cpu": "a CPU", "cores": 2, "threads": 1, "malloc": {}, "GOMP_SPINCOUNT": "0",
    "OMP_WAIT_POLICY": None, "LD_PRELOAD": None, "python": "3", "torch": "2", "triton": None,
    "transformers": None, "mambapy": "1", "commit": "abc", "date": "2026-01-02", "note": "At night.",
    "rates": {"copy_gb_s": {"65536": 50.0, "1048576": 20.0},
    "gemm_gflop_s": {"float32": 80.0}, "exp_g_s": 0.5},
}  # fmt: skip


def row(competitor, median, **changed):
    return {
        "op": "toy_scan", "variant": "", "part": "typical", "pass": "forward+backward", "dtype": "float32",
        "shape": {"B": 2, "T": 1024}, "competitor": competitor, "median_ms": median, "q1_ms": median * 0.9,
        "q3_ms": median * 1.1, "rounds": 5, "peak_mb": 12.3, "gb_s": 1.5, "gflop_s": 2.5, "bound_ms": 0.5,
        "limit": "copy", "ratio": median / 0.5, "load": 1.0,
    } | changed  # fmt: skip


@pytest.fixture
def data(tmp_path):
    rows = [
        row("phasefield torch", 2.0),
        row("phasefield reference", 9.0),
        row("loop", 5.0),
        row("scan", 8.0),
        row("phasefield torch", 0.01, **{"pass": "step", "shape": {"B": 2}}),
        row("eager step", 0.02, **{"pass": "step", "shape": {"B": 2}}),
    ]
    rows += [
        row("phasefield torch", T / 1e3, part="lengths", shape={"B": 1, "T": T}, **{"pass": pass_})
        for T in (256, 1024)
        for pass_ in ("forward", "stream")
    ]
    store.merge(tmp_path / "measured-toy.json", SETTINGS, rows)
    return tmp_path


def test_the_page_is_what_the_stored_data_say():
    told = "BENCHMARKS.md is not what the data say: run python -m benchmarks.report"
    assert report.PAGE.read_text(encoding="utf-8") == report.page(), told


def test_the_page_says_whether_anything_was_timed_on_a_gpu(data):
    assert "**Nothing on this page has been timed on a GPU.**" in method.introduction(data)
    store.merge(data / "measured-card.json", SETTINGS | {"device": "a card"}, [row("phasefield triton", 1.0)])
    told = method.introduction(data)
    assert "Timed on these GPUs: a card." in told
    assert "Nothing on this page" not in told


def test_every_picture_of_the_page_is_there():
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", report.page())
    assert pictures
    for picture in pictures:
        assert (report.ROOT / picture).is_file(), picture


def test_every_stored_row_has_its_settings_and_a_bound():
    for path in report.DATA.glob("measured-*.json"):
        settings, rows = store.read(path)
        assert len({json.dumps(r["threads"]) for r in settings}) == 1, "all of a file on as many threads"
        for stored in rows:
            assert stored["ratio"] == pytest.approx(stored["median_ms"] / stored["bound_ms"], rel=2e-3)
            assert settings[stored["settings"]]["commit"]


def test_our_fastest_is_set_beside_the_fastest_peer(data):
    told = speed.at_a_glance(data)
    assert "| `toy_scan` | B 2, T 1,024 | 2.00 | 5.00 | loop | 2.50× | 4.00 | copy | 12.3 | 12.3 |" in told
    assert "| `toy_scan` | B 2 | 10.0 | eager step 20.0 |" in told


def test_the_worst_ratios_are_of_what_is_meant_to_be_fast(data):
    worst = speed.at_a_glance(data).partition("worst ratios")[2]
    assert "| `toy_scan` | B 2, T 1,024 | forward+backward | 2.00 | 4.00 | copy |" in worst
    assert worst.count("toy_scan") == 1


def test_every_row_is_shown_fastest_first(data):
    told = speed.every_row(data)
    order = [
        told.index(name) for name in ("**phasefield torch** | 2.00", "loop", "scan |", "**phasefield ref")
    ]
    assert order == sorted(order)
    assert "6 rows" in told


def test_lengths_are_told_whole_and_streamed_or_how_to_measure_them(data):
    told = scaling.lengths(data)
    assert "| `toy_scan` | forward | ms | 0.256 | 1.02 |" in told
    assert "| `toy_scan` | streamed | MB | 12.3 | 12.3 |" in told
    store.write(data / "measured-toy.json", [SETTINGS], [row("phasefield torch", 1.0, settings=0)])
    assert "--full --store benchmarks/data/measured-toy.json" in scaling.lengths(data)


def test_other_sizes_are_set_beside_the_fastest_peer(data):
    wider = {"part": "further", "shape": {"B": 2, "D": 9}}
    store.merge(
        data / "measured-toy.json",
        SETTINGS,
        [row("phasefield torch", 3.0, **wider), row("loop", 1.5, **wider)],
    )
    assert "| `toy_scan` | B 2, D 9 | 3.00 | 1.50 | loop | 0.500× |" in scaling.sizes(data)
    assert "D 9" not in speed.at_a_glance(data)


def test_machines_are_told_with_their_settings(data):
    told = method.machines(data)
    for words in (
        "2 cores, 1 used",
        "`GOMP_SPINCOUNT=0`",
        "malloc: default",
        "mambapy 1",
        "`abc`",
        "50.0 / 20.0",
        "At night.",
    ):
        assert words in told
    assert "LD_PRELOAD" not in told


def test_training_is_told_in_nats_and_bits(tmp_path):
    assert "Left out" in training.runs(tmp_path)
    runs = [
        {"what": "one", "seed": 3, "total": 1.6, "content": 1.5, "measure": "full pass", "ms_per_step": 40.0},
        {"what": "published", "total": 1.7, "measure": "one batch"},
    ]
    group = {"title": "A", "text": "B", "runs": runs, "commands": ["train"]}
    (tmp_path / "training.json").write_text(json.dumps([group]))
    told = training.runs(tmp_path)
    assert f"| one | 3 | 1.6000 | 1.5000 | {1.5 / math.log(2):.3f} | 40.0 | full pass |" in told
    assert "| published |  | 1.7000 |  |  |  | one batch |" in told


def test_a_training_step_is_told_by_its_shares_or_how_to_measure_it(tmp_path):
    told = training.step_shares(tmp_path)
    assert "`python -m benchmarks.training_step --store benchmarks/data/training_step.json` makes it" in told
    shared = {"batch_size": 2, "seq_len": 8}
    rows = {
        "a": shared | {"arguments": "a --size tiny", "seconds": 0.02, "looks": 1.1,
        "parts": {"rest": 0.002, "forward": 0.005, "backward": 0.01, "optimizer": 0.003}},
        "b": shared | {"arguments": "b", "seconds": 0.5, "looks": 45.0,
        "parts": {"learning": 0.49, "looks": 0.01}},
    }  # fmt: skip
    content = {"settings": SETTINGS, "steps": 20, "rows": rows}
    (tmp_path / "training_step.json").write_text(json.dumps(content))
    told = training.step_shares(tmp_path)
    assert "forward, % | backward, % | learning, % | optimizer, % | looks, % | rest, % | around" in told
    assert "| `a --size tiny` | 2 × 8 | 20.0 | 25.0 | 50.0 |  | 15.0 |  | 10.0 | 25.0 | 1.1 |" in told
    assert "| `b` | 2 × 8 | 500 |  |  | 98.0 |  | 2.0 |  | 2.0 | 45.0 |" in told
    assert "the mean of 20 after 5 to warm up" in told
    assert "2 cores, 1 used" in told


def test_masked_characters_are_told_without_bits_of_the_whole_text(tmp_path):
    run = {"what": "a", "seed": 0, "total": 1.5, "content": 1.5, "measure": "masked characters only"}
    group = {"title": "t", "text": "x", "commands": [], "runs": [run]}
    (tmp_path / "training.json").write_text(json.dumps([group]))
    assert "| a | 0 | 1.5000 | 1.5000 |  |  | masked characters only |" in training.runs(tmp_path)


def test_a_missing_file_names_the_command_that_makes_it(tmp_path):
    assert "no `benchmarks/data/predicted.json`" in gpu.predicted_times(tmp_path)
    assert "`python -m benchmarks." in gpu.predicted_times(tmp_path)


def test_predictions_stand_beside_each_other_by_card_and_say_what_they_are(tmp_path):
    case = {"op": "x", "path": "p", "shape": [2, 3], "launches": 1, "limiting": "memory"}
    times = {"one": (0.25, 0.2), "two": (0.5, 0.4)}
    rows = [
        {**case, "card": card, "predicted_ms": time, "bandwidth_bound_ms": bound}
        for card, (time, bound) in times.items()
    ]
    (tmp_path / "predicted.json").write_text(json.dumps({"rows": rows}))
    told = gpu.predicted_times(tmp_path)
    assert "**Predicted, not measured**" in told
    assert "| op | path | shape | launches | one | two | limited by | bandwidth bound |" in told
    assert "| `x` | p | 2 × 3 | 1 | 0.250 | 0.500 | memory | 0.200 |" in told


def test_pictures_are_drawn_from_the_data(data, tmp_path):
    paths = list(draw_plots(data, tmp_path / "plots"))
    assert [path.name for path in paths] == ["measured-toy-speed.png", "measured-toy-lengths.png"]
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("value", "told"),
    [(0.01234, "0.0123"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1,230"), (99.96, "100"), (1.2e-5, "0")],
)
def test_numbers_have_three_digits_that_count(value, told):
    assert number(value) == told


def test_columns_of_numbers_are_aligned_to_the_right():
    lines = table(("a", "b"), [("x", 1.0), ("y", 20.0)]).splitlines()
    assert lines == ["| a | b |", "| --- | ---: |", "| x | 1.00 |", "| y | 20.0 |"]


def test_sections_have_titles_of_their_own():
    titles = re.findall(r"^#+ .*$", report.page(), re.M)
    assert [title for title, same in groupby(sorted(titles)) if len(list(same)) > 1] == []
