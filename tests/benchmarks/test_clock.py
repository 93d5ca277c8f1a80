import gc
from types import SimpleNamespace

import pytest

from benchmarks import clock
from benchmarks.clock import (
    FEW,
    FEWEST,
    MOST,
    REPLAY,
    SAMPLE,
    CpuClock,
    CudaClock,
    Replay,
    in_turns,
    quartiles,
)


class CountingClock:
    """Each call lasts what its competitor costs; the time of the samples passes at once."""

    def __init__(self, costs):
        self.costs = costs

    def seconds(self, call, repeats):
        name = call()
        return self.costs[name] * repeats


def test_competitors_take_turns_after_warming_up():
    order = []
    calls = {name: lambda name=name: order.append(name) or name for name in "abc"}
    in_turns(calls, CountingClock({"a": 1.0, "b": 1.0, "c": 1.0}), budget=0)
    assert "".join(order) == "aabbcc" + "abc" * FEWEST


def test_a_short_call_is_repeated_and_its_time_divided():
    asked = []

    class Clock(CountingClock):
        def seconds(self, call, repeats):
            asked.append(repeats)
            return super().seconds(call, repeats)

    samples = in_turns({"x": lambda: "x"}, Clock({"x": 1e-5}), budget=0)
    assert asked == [1, 1] + [round(SAMPLE / 1e-5)] * FEWEST
    assert samples["x"] == pytest.approx([1e-5] * FEWEST)


@pytest.mark.parametrize(("budget", "rounds"), [(0.9, FEWEST), (2, FEW), (8, 9), (1e6, MOST)])
def test_rounds_end_with_the_budget_but_not_before_there_are_a_few(monkeypatch, budget, rounds):
    now = [0.0]

    class Clock(CountingClock):
        def seconds(self, call, repeats):
            now[0] += 1.0
            return super().seconds(call, repeats)

    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])
    assert len(in_turns({"x": lambda: "x"}, Clock({"x": 1.0}), budget)["x"]) == rounds


def test_the_garbage_collector_waits_and_comes_back_even_after_an_error():
    states = []
    in_turns({"x": lambda: states.append(gc.isenabled()) or "x"}, CountingClock({"x": 1.0}), budget=0)
    assert states == [True] * 2 + [False] * FEWEST
    assert gc.isenabled()
    calls = iter([None, None])
    with pytest.raises(StopIteration):
        in_turns({"x": lambda: next(calls) or "x"}, CountingClock({"x": 1.0}), budget=0)
    assert gc.isenabled()


def test_the_cpu_clock_times_all_repeats():
    calls = []
    assert CpuClock().seconds(lambda: calls.append(1), 7) > 0
    assert len(calls) == 7


def test_the_gpu_clock_flushes_before_the_first_event_and_waits_for_the_last():
    log = []

    class Event:
        made = 0

        def __init__(self, enable_timing):
            assert enable_timing
            self.name = ("begin", "end")[Event.made]
            Event.made += 1

        def record(self):
            log.append(self.name)

        def elapsed_time(self, other):
            log.append("read")
            return 250.0  # milliseconds

    cuda = SimpleNamespace(Event=Event, synchronize=lambda: log.append("wait"))
    on_gpu = CudaClock(cuda, flush=lambda: log.append("flush"))
    assert on_gpu.seconds(lambda: log.append("call"), 2) == 0.25
    assert log == ["flush", "begin", "call", "call", "end", "wait", "read"]


def test_quartiles_are_those_of_the_samples():
    assert quartiles([5.0, 1.0, 3.0, 2.0, 4.0]) == (2.0, 3.0, 4.0)


def test_a_replayed_sample_lasts_as_long_as_it_did():
    replay = Replay()
    play = replay.player([0.5, 0.25])
    begin = replay()
    play()
    assert replay() - begin == 0.5
    play()
    assert replay() - begin == 0.75
    assert REPLAY() == 0.0
