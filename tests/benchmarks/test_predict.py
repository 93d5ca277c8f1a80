"""Predictions: the model's arithmetic by hand, loops scaled to a shape, and what a report makes of them."""

import pytest

pytest.importorskip("triton")

from benchmarks.cards import CARDS, Card
from benchmarks.predict import Demand, demand, loop_trips, predict, times

# 10 schedulers of 1 GHz; 100 GB/s; 1 and 0.5 TFLOP/s.
ROUND = Card("sm_86", 10 // 2, 1.0, 100, 1.0, 0.5)
SOME = Demand(bytes=1e6, half=2e6, tf32=1e6, instructions=4e5, special=1e4, warps=1000)


def test_each_resource_takes_what_it_is_asked_for_over_its_rate():
    assert times(SOME, ROUND) == {
        "memory": pytest.approx(10.0),  # 10⁶ bytes at 10⁵ a microsecond
        "tensor cores": pytest.approx(2.0 + 2.0),  # 2·10⁶ at 10⁶ a microsecond, 10⁶ at half of that
        "issue slots": pytest.approx(20.0),  # 4·10⁵ on 20 schedulers, 1000 a microsecond each
        "special functions": pytest.approx(4.0),  # 3.2·10⁵ results at 16 · 5 · 1000 a microsecond
    }


def test_few_warps_leave_schedulers_idle_but_not_the_memory():
    few = times(SOME._replace(warps=4), ROUND)
    assert few["issue slots"] == pytest.approx(100.0)
    assert few["special functions"] == pytest.approx(20.0)
    assert few["memory"] == pytest.approx(10.0)


def test_launches_add_up_with_their_latency_and_the_longest_resource_is_told():
    by_memory = SOME._replace(bytes=1e7)  # 100 µs
    row = predict([SOME, by_memory], ROUND)
    assert row["predicted_ms"] == pytest.approx((20 + 100 + 2 * 4) / 1e3)
    assert (row["limiting"], row["launches"]) == ("memory", 2)
    assert (row["memory_us"], row["issue_slots_us"], row["latency_us"]) == (100.0, 20.0, 8.0)
    tiny = predict([SOME._replace(bytes=1e3, half=0, tf32=0, instructions=10, special=0)], ROUND)
    assert tiny["limiting"] == "latency"


# One warp: 32 lanes · 4 bytes are 128 bytes for each LDG.32 or STG.32.
PROLOGUE = {"LDG": 1, "LDG.32": 1, "MOV": 9}
LOOP = {"LDG": 2, "LDG.32": 2, "STG": 1, "STG.32": 1, "MUFU": 4, "FFMA": 13}
WHOLE = {name: PROLOGUE.get(name, 0) + LOOP.get(name, 0) for name in {*PROLOGUE, *LOOP}}


def test_the_main_loop_runs_as_often_as_its_bytes_need_it_to():
    code = {"instructions": WHOLE, "loops": [(None, LOOP)], "warps": 1}
    # 128 bytes before it, then 50 times 384.
    assert loop_trips(code, 128 + 50 * 384, 0) == [50]
    assert loop_trips(code, 0, 0) == [1]
    program = {
        "grid": [8, 2, 1],
        "sampled": 2,
        "tensors": {"x_ptr": (2 * (128 + 50 * 256), 0, 10**9), "y_ptr": (0, 2 * 50 * 128, 10**9)},
        "dots": {},
    }
    asked = demand(code, program)
    assert asked.bytes == 16 * (128 + 50 * 384)
    assert asked.instructions == 16 * (10 + 50 * 20)
    assert asked.special == 16 * 50 * 4
    assert asked.warps == 16


def test_a_tensor_costs_its_size_at_the_most():
    code = {"instructions": PROLOGUE, "loops": [], "warps": 1}
    program = {"grid": [100, 1, 1], "sampled": 1, "tensors": {"w_ptr": (128, 0, 1000)}, "dots": {}}
    assert demand(code, program).bytes == 1000


def test_a_loop_without_memory_runs_as_often_as_its_products_need_it_to_and_inner_loops_with_it():
    inner = {"FADD": 2}
    code = {"instructions": {"HMMA": 8, "FADD": 2}, "loops": [(None, {"HMMA": 8}), (0, inner)], "warps": 2}
    # 64 · 64 · 64 in bfloat16: 2 · 64³ operations, 4096 an HMMA, two warps: 64 each, 8 an iteration.
    program = {"grid": [1, 1, 1], "sampled": 1, "tensors": {}, "dots": {"half": 2 * 64**3}}
    asked = demand(code, program)
    assert asked.half == 2 * 64**3
    assert asked.instructions == 2 * (8 * 8 + 8 * 2)


def test_tf32_in_three_parts_counts_three_times_and_full_float32_not_on_tensor_cores():
    code = {"instructions": {"FFMA": 1}, "loops": [], "warps": 1}
    program = {"grid": [1, 1, 1], "sampled": 1, "tensors": {}, "dots": {"tf32x3": 10, "tf32": 5, "ieee": 99}}
    assert demand(code, program)[1:3] == (0, 35)


def test_the_cards_rates_agree_with_their_clocks():
    # A multiprocessor's tensor operations a clock are a power of two, stated rates being rounded.
    for name, card in CARDS.items():
        by_clock = card.half * 1e12 / (card.multiprocessors * card.clock * 1e9)
        power = min((512, 1024, 2048, 4096), key=lambda size: abs(size - by_clock))
        assert by_clock == pytest.approx(power, rel=0.01), name
        assert card.tf32 == pytest.approx(card.half / 2, rel=0.01), name
