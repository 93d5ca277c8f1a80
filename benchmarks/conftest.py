"""``pytest benchmarks --benchmark-only``: options, the race of each test, the file that keeps the rows."""

from pathlib import Path
from typing import Any

import pytest

from .clock import REPLAY
from .machine import clock_for, rates, settings, this_device
from .operation import Race
from .race import Competitor, absent, run_race
from .store import merge

RUN = pytest.StashKey[dict]()


def pytest_addoption(parser):
    group = parser.getgroup("phasefield benchmarks")
    group.addoption("--full", action="store_true", help="every shape and length, not only the quick set")
    group.addoption(
        "--store", type=Path, metavar="FILE", help="merge the rows into this JSON file (made if missing)"
    )
    group.addoption("--note", default="", help="words on the run, kept with its settings")


def pytest_configure(config):
    config.stash[RUN] = {"rows": [], "races": {}}


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--full"):
        config.hook.pytest_deselected(items=[item for item in items if "full" in item.keywords])
        items[:] = [item for item in items if "full" not in item.keywords]


@pytest.fixture(scope="session")
def run(pytestconfig) -> dict[str, Any]:
    """This session's device, clock, settings and the machine's rates; its rows."""
    device = this_device()
    run = pytestconfig.stash[RUN]
    run |= {"device": device, "clock": clock_for(device), "settings": settings(device)}
    run["settings"]["note"] = pytestconfig.getoption("--note")
    run["settings"]["rates"] = rates(device, run["clock"])
    return run


@pytest.fixture
def compete(run, benchmark):
    """Times a race, once for all its competitors, and plays one's samples to pytest-benchmark."""

    def compete(race: Race, competitor: Competitor) -> None:
        if reason := absent(competitor, race, run["device"]):
            pytest.skip(reason)
        if race not in run["races"]:
            run["races"] = {race: run_race(race, run["device"], run["clock"], run["settings"]["rates"])}
        row = dict(run["races"][race][competitor.name])
        samples = row.pop("samples")
        benchmark.group = f"{race.operation.name} {race}"
        benchmark.extra_info |= row
        benchmark.pedantic(REPLAY.player(samples), rounds=len(samples))
        run["rows"].append(row)

    return compete


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["phasefield"] = config.stash[RUN].get("settings")


def pytest_sessionfinish(session):
    run = session.config.stash[RUN]
    path = session.config.getoption("--store")
    if path is not None and run["rows"]:
        merge(path, run["settings"], run["rows"])
