"""PREDICTED times on cards that nobody here has run: ``python -m benchmarks.predict``.

A launch takes the longest of four times, as if each of the card's resources were kept busy to its stated
rate, and a case takes its launches one after another, each after a launch latency:

    memory            bytes / bandwidth
    tensor cores      operations of products on them / their rate for the operands' type
    issue slots       instructions of all warps / (schedulers · clock)
    special functions MUFU instructions · 32 / (16 · multiprocessors · clock)

It is a bound from below on what these instructions can take, not an estimate of latencies: dependent
instructions, misses, bank conflicts, the power limit and a last wave of few programs make a kernel slower.
``python -m benchmarks.on_gpu`` says by how much.

**Bytes** are counted in Triton's interpreter at the case's own size: of the first and the last program of a
launch, times the number of programs. A tensor costs in a launch what is asked of it, and at the most its
size: re-reads are taken to hit the cache.

**Instructions** are those of the machine code for the card's architecture. A loop's body stands there once;
how often a warp runs it is not in the text. The main loop (most bytes of global memory in an iteration)
runs as often as it takes to ask for the bytes that the program asks for, beyond those asked for outside it;
where it holds no global access, as often as products on tensor cores need it to. Loops inside the main one
run once each time, all others once: their bodies are a few instructions of prologue and remainder.

**PyTorch's own operations** between launches are left out; the traffic table has their bytes. They count
for linoss_scan, and for single decoding steps.

**Few programs** leave schedulers idle: issue slots and special functions are those of as many schedulers as
there are warps, at most the card's.
"""

import argparse
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from . import baseline
from .cards import CARDS, LAUNCH_MICROSECONDS, SCHEDULERS, SPECIAL_FUNCTIONS, Card
from .machine_code import issued, load_widths, special_function, store_widths
from .predict_counts import WANTED, collect

OUTPUT = baseline.DATA / "predicted.json"
LANES = 32
MMA_FLOPS = {"half": 2 * 16 * 8 * 16, "tf32": 2 * 16 * 8 * 8}
"""Operations of a warp's HMMA on Ampere and Ada: m16n8k16 and m16n8k8."""


class Demand(NamedTuple):
    """What a launch asks of a card, all programs together.

    Attributes:
        bytes: of its memory.
        half, tf32: operations on tensor cores.
        instructions: issue slots, one a warp and instruction.
        special: MUFU instructions of warps.
        warps: of the launch.
    """

    bytes: float
    half: float
    tf32: float
    instructions: float
    special: float
    warps: int


def times(demand: Demand, card: Card) -> dict[str, float]:
    """Microseconds by resource."""
    schedulers = min(card.multiprocessors * SCHEDULERS, demand.warps)
    clocks = card.clock * 1e3  # a microsecond
    special_rate = SPECIAL_FUNCTIONS / SCHEDULERS
    return {
        "memory": demand.bytes / (card.bandwidth * 1e3),
        "tensor cores": demand.half / (card.half * 1e6) + demand.tf32 / (card.tf32 * 1e6),
        "issue slots": demand.instructions / (schedulers * clocks),
        "special functions": demand.special * LANES / (special_rate * schedulers * clocks),
    }


def predict(demands: Iterable[Demand], card: Card) -> dict[str, Any]:
    """``predicted_ms`` of launches one after another, and what limits them: the resource with most time."""
    total, shares = 0.0, dict.fromkeys(("memory", "tensor cores", "issue slots", "special functions"), 0.0)
    launches = 0
    for demand in demands:
        by_resource = times(demand, card)
        limiting = max(by_resource, key=by_resource.__getitem__)
        shares[limiting] += by_resource[limiting]
        total += by_resource[limiting] + LAUNCH_MICROSECONDS
        launches += 1
    shares["latency"] = launches * LAUNCH_MICROSECONDS
    return {
        "launches": launches,
        "predicted_ms": float(f"{total / 1e3:.3g}"),
        "limiting": max(shares, key=shares.__getitem__),
        **{f"{name.replace(' ', '_')}_us": float(f"{value:.3g}") for name, value in shares.items()},
    }


def demand(code: Mapping[str, Any], program: Mapping[str, Any]) -> Demand:
    """What a launch asks for, from its machine code and from its sampled programs.

    Args:
        code: fields of :class:`benchmarks.machine_code.MachineCode`.
        program: ``grid``, ``sampled`` programs, and what these asked for together: ``tensors``, argument →
            (bytes read, bytes written, size), and ``dots``.
    """
    programs = program["grid"][0] * program["grid"][1] * program["grid"][2]
    scale = programs / program["sampled"]
    moved = sum(min(asked * scale, size) for *both, size in program["tensors"].values() for asked in both)
    asked_each = sum(sum(both) for *both, _ in program["tensors"].values()) / program["sampled"]
    dots = program["dots"]
    flops = {"half": dots.get("half", 0), "tf32": dots.get("tf32", 0) + 3 * dots.get("tf32x3", 0)}
    products = sum(flops[kind] / MMA_FLOPS[kind] for kind in flops) / program["sampled"] / code["warps"]
    trips = loop_trips(code, asked_each, products)
    instructions, special = (
        count(code["instructions"])
        + sum((trip - 1) * count(loop[1]) for trip, loop in zip(trips, code["loops"], strict=True))
        for count in (issued, special_function)
    )
    warps = programs * code["warps"]
    return Demand(
        moved, flops["half"] * scale, flops["tf32"] * scale, instructions * warps, special * warps, warps
    )


def loop_trips(code: Mapping[str, Any], asked: float, products: float) -> list[float]:
    """How often a warp runs each of a kernel's loops.

    Args:
        asked: bytes of global memory that a program asks for.
        products: HMMA instructions that each of its warps needs.
    """
    loops = code["loops"]
    own = [_bytes(loop[1]) * LANES * code["warps"] for loop in loops]
    outside = (_bytes(code["instructions"]) - sum(_bytes(loop[1]) for loop in loops)) * LANES * code["warps"]
    trips = [1.0] * len(loops)
    if not loops:
        return trips
    main = max(range(len(loops)), key=lambda place: (own[place], _products(loops[place][1])))
    if own[main]:
        trips[main] = max(1.0, (asked - outside) / own[main])
    elif _products(loops[main][1]):
        trips[main] = max(1.0, products / _products(loops[main][1]))
    for place, (parent, _) in enumerate(loops):
        if parent is not None and place != main:
            trips[place] = trips[parent]
    return trips


def _bytes(instructions: Mapping[str, int]) -> int:
    widths = (load_widths(instructions), store_widths(instructions))
    return sum(bits // 8 * count for counts in widths for bits, count in counts.items())


def _products(instructions: Mapping[str, int]) -> int:
    return instructions.get("HMMA", 0)


def all_rows(ops: list[str], cards: Mapping[str, Card]) -> list[dict[str, Any]]:
    """A row for every case and card. Cards with the same launches share what is counted."""
    rows, counted = [], {}
    for target in dict.fromkeys(card.target for card in cards.values()):
        cases = collect("compiled", target, ops)
        launched = {name: str([(x["kernel"], x["constants"], x["grid"]) for x in case["launches"]])
                    for name, case in cases.items()}  # fmt: skip
        missing = [name for name, launches in launched.items() if (name, launches) not in counted]
        if missing:
            found = collect("interpreted", target, missing)
            counted |= {(name, launched[name]): found[name] for name in missing}
        for name, case in cases.items():
            programs = counted[name, launched[name]]
            if [(x["kernel"], x["grid"]) for x in programs] != [
                (x["kernel"], x["grid"]) for x in case["launches"]
            ]:
                raise RuntimeError(f"{name}: compiled and interpreted launches differ for {target}.")
            demands = [demand(x["code"], y) for x, y in zip(case["launches"], programs, strict=True)]
            moved = sum(one.bytes for one in demands)
            for card_name, card in cards.items():
                if card.target == target:
                    bound = case["least"] / card.bandwidth / 1e6
                    rows.append(
                        {"op": case["op"], "path": case["path"], "shape": case["shape"], "card": card_name}
                        | predict(demands, card)
                        | {"bytes": round(moved), "least_bytes": case["least"]}
                        | {"bandwidth_bound_ms": float(f"{bound:.3g}")}
                    )
    return rows


def main() -> None:
    """Print the predictions and store them."""
    parser = argparse.ArgumentParser(description="Predicted times; nothing here was run on a GPU.")
    parser.add_argument("--op", nargs="+", choices=WANTED, default=list(WANTED), help="only these ops")
    parser.add_argument("--card", nargs="+", choices=CARDS, default=list(CARDS), help="only these cards")
    arguments = parser.parse_args()
    rows = all_rows(arguments.op, {name: CARDS[name] for name in arguments.card})
    layout = "{:18}  {:62}  {:22}  {:9}  {:>12}  {:>9}  {}"
    print("PREDICTED from machine code and counted bytes; nothing here was run on a GPU.")
    print(layout.format("op", "case", "largest input", "card", "predicted ms", "launches", "limited by"))
    for row in rows:
        columns = (row["op"], row["path"], str(row["shape"]), row["card"], row["predicted_ms"])
        print(layout.format(*columns, row["launches"], row["limiting"]))
    kept = [
        row
        for row in baseline.read(OUTPUT)
        if row["op"] not in arguments.op or row["card"] not in arguments.card
    ]
    baseline.write(OUTPUT, [*kept, *rows])


if __name__ == "__main__":
    main()
