import pytest

from benchmarks import store
from benchmarks.compare import changes, drifts, main, slower

SETTINGS = {"threads": 1, "torch": "2", "commit": "a"}


def row(op, competitor, median, spread=0.02, **changed):
    quartiles = {"q1_ms": median * (1 - spread), "median_ms": median, "q3_ms": median * (1 + spread)}
    identity = {"variant": "", "part": "typical", "pass": "forward", "dtype": "float32", "shape": {"T": 4}}
    return {"op": op, "competitor": competitor, **identity, **quartiles, **changed}


def run(factor=1.0, machine=1.0, spread=0.02, slowed="scan3"):
    ours = [
        row(
            f"scan{i}",
            "phasefield torch",
            machine * (i + 1) * (factor if f"scan{i}" == slowed else 1),
            spread,
        )
        for i in range(6)
    ]
    return ours + [row(f"scan{i}", "loop", machine * 3 * (i + 1)) for i in range(6)]


@pytest.fixture
def files(tmp_path):
    def write(old, new, **settings):
        store.merge(tmp_path / "old.json", SETTINGS, old)
        store.merge(tmp_path / "new.json", SETTINGS | settings, new)
        return [str(tmp_path / "old.json"), str(tmp_path / "new.json")]

    return write


def test_an_op_that_takes_a_third_longer_is_caught(files, capsys):
    assert main(files(run(), run(factor=1.3))) == 1
    told = capsys.readouterr().out
    assert "SLOWER: 1\n    1.30x  scan3 forward float32 T=4, phasefield torch: 4 -> 5.2 ms" in told
    assert "faster: 0" in told


def test_noise_within_the_quartiles_is_not_flagged():
    assert slower(changes(run(spread=0.3), run(factor=1.3, spread=0.3))) == []
    assert slower(changes(run(), run(factor=1.1))) == []  # beyond the quartiles, under the threshold


def test_an_op_that_became_faster_is_told_and_passes(files, capsys):
    assert main(files(run(), run(factor=0.5))) == 0
    assert "faster: 1\n    0.50x  scan3" in capsys.readouterr().out


def test_a_slower_machine_is_taken_out_and_a_slower_op_on_it_caught():
    assert slower(changes(run(), run(machine=1.5))) == []
    (found,) = slower(changes(run(), run(machine=1.5, factor=1.3)))
    assert found.new["op"] == "scan3"
    assert found.ratio == pytest.approx(1.3)


def test_a_disturbance_of_one_race_is_taken_out_of_that_race_alone():
    disturbed = [
        r | {n: r[n] * 1.5 for n in ("q1_ms", "median_ms", "q3_ms")} if r["op"] == "scan2" else r
        for r in run()
    ]
    assert slower(changes(run(), disturbed)) == []
    (found,) = slower(changes(disturbed, run(factor=1.5)))
    assert found.new["op"] == "scan3"


def test_a_race_without_peers_drifts_with_all_of_them_if_there_are_enough():
    lone = row("lone", "phasefield torch", 1.0)
    race = lone | {"competitor": ""}
    for old, new, wanted in ((run(), run(machine=1.5), 1.5), (run()[-4:], run(machine=1.5)[-4:], 1.0)):
        assert drifts([*old, lone], [*new, lone])[store.identity(race)] == pytest.approx(wanted)


def test_rows_of_one_run_alone_are_not_compared():
    assert [c.new["op"] for c in changes(run()[:2], run())] == ["scan0", "scan1"]


def test_runs_with_other_settings_say_so(files, capsys):
    main(files(run(), run(), threads=2, commit="b"))
    told = capsys.readouterr().out
    assert "Not measured alike: threads is 1, now 2." in told
    assert "commit" not in told


def test_a_stored_row_replaces_the_one_of_the_same_measurement(tmp_path):
    path = tmp_path / "rows.json"
    store.merge(path, {"date": 1}, [row("a", "x", 1.0), row("b", "x", 1.0)])
    store.merge(path, {"date": 2}, [row("b", "x", 2.0)])
    settings, rows = store.read(path)
    assert settings == [{"date": 1}, {"date": 2}]
    assert [(r["op"], r["median_ms"], r["settings"]) for r in rows] == [("a", 1.0, 0), ("b", 2.0, 1)]
    store.merge(path, {"date": 3}, [row("a", "x", 3.0), row("b", "x", 3.0)])
    settings, rows = store.read(path)
    assert settings == [{"date": 3}]
    assert {r["settings"] for r in rows} == {0}
    assert len(path.read_text("utf-8").splitlines()) == 5 + 2  # a row a line
