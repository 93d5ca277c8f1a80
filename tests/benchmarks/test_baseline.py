"""Baselines: what is worse is told, partial runs leave the rest alone, nothing is accepted unasked."""

import argparse

import pytest

from benchmarks import baseline


def grown(before, after):
    return [f"{before['n']} -> {after['n']}"] if after["n"] > before["n"] else []


def row(op, n):
    return {"op": op, "path": "p", "n": n}


def finish(path, rows, *flags, faults=0):
    parser = argparse.ArgumentParser()
    baseline.add_arguments(parser)
    return baseline.finish(parser.parse_args(flags), path, rows, ("op", "path"), grown, faults)


def test_worse_better_new_and_gone_rows_are_told_apart():
    before = [row("same", 1), row("worse", 1), row("better", 2), row("gone", 1)]
    after = [row("same", 1), row("worse", 2), row("better", 1), row("new", 1)]
    assert baseline.compare(before, after, ("op", "path"), grown) == (
        ["worse, p: 1 -> 2"],
        ["better, p"],
        ["new, p"],
        ["gone, p"],
    )


def test_a_regression_fails_until_it_is_accepted(tmp_path, capsys):
    path = tmp_path / "data" / "figures.json"
    assert finish(path, [row("a", 1), row("b", 1)], "--accept") == 0
    assert finish(path, [row("a", 1), row("b", 1)]) == 0
    assert finish(path, [row("a", 2), row("b", 1)]) == 1
    assert "a, p: 1 -> 2" in capsys.readouterr().out
    assert baseline.read(path) == [row("a", 1), row("b", 1)]
    # A run of one op replaces its rows alone.
    assert finish(path, [row("a", 2)], "--accept") == 0
    assert sorted(map(str, baseline.read(path))) == [str(row("a", 2)), str(row("b", 1))]
    assert finish(path, [row("a", 2)]) == 0


def test_faults_fail_whatever_the_baseline_says(tmp_path):
    path = tmp_path / "figures.json"
    assert finish(path, [row("a", 1)], "--accept", faults=1) == 1


@pytest.mark.parametrize("name", ["gpu_report.json", "traffic.json", "predicted.json", "peer_kernels.json"])
def test_stored_rows_have_the_same_columns_and_a_name_of_their_own(name):
    rows = baseline.read(baseline.DATA / name)
    assert rows
    assert {tuple(one) for one in rows} == {tuple(rows[0])}
    keys = {
        "gpu_report.json": ("target", "op", "kernel", "configuration"),
        "traffic.json": ("op", "path", "tensor"),
        "predicted.json": ("op", "path", "card"),
        "peer_kernels.json": ("work", "target", "by"),
    }[name]
    assert len({tuple(one[key] for key in keys) for one in rows}) == len(rows)
