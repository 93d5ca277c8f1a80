"""Cases of the recurrent ops."""

from collections.abc import Iterator
from functools import partial
from itertools import product

import torch
from torch import Tensor

from phasefield_kernels import (
    aperiodic_scan,
    aperiodic_scan_step_,
    golden_phases,
    linoss_scan,
    oscillatory_scan,
    oscillatory_scan_step_,
    rotation_scan,
    rotation_scan_step_,
)

from .case import DTYPES, LOOSE, ONE_PASS, Bound, Case, Scan, short

ANGLES = ("constant", "token")
DECAYS = ("no", "constant", "token")

# A constant angle is read as a 64-bit phase.
DECODING = Bound(unique=1.1, sectors=1.0)


def two_pass(read: int, written: int) -> Bound:
    """A first pass finds each chunk's own end state, so what is read is read twice; and the chunks' states.

    Args:
        read, written: numbers a lane and step.
    """
    # A chunk has at least 128 steps and six states in float32: 5 % of a bfloat16 number read and written.
    return Bound(unique=(2 * read + written) / (read + written) * 1.035, sectors=1.05)


# Two iterations and the last pass read u; the last one writes h. The chunks' states are as above.
NEWTON = Bound(unique=2.2, sectors=1.05)

# The fused kernels choose path and configuration by the number of lanes (batch · width) and the time.
TIME_LOOP = dict(batch=2, length=32, width=32)
PACKED = dict(batch=1, length=32, width=32, sequences=2)
STATELESS = TIME_LOOP | dict(state=False)
CHUNKED = dict(batch=1, length=256, width=32)
SIDE_BY_SIDE = dict(batch=2, length=128, width=32)
PACKED_SIDE_BY_SIDE = dict(batch=1, length=256, width=32, sequences=2)
MANY_CHUNKS = dict(batch=1, length=1152, width=32)  # more than the rotation has spans side by side
MANY_LANES = dict(batch=64, length=8, width=1024)  # too slow for the interpreter
ODD = dict(batch=2, length=9, width=33)
ONE_STEP = dict(batch=2, length=1, width=64)


def _state_and_packing(
    shape: tuple[int, ...], batch: int, length: int, sequences: int, state: bool
) -> dict[str, Tensor | None]:
    return {
        "initial_state": torch.zeros(sequences or batch, *shape) if state else None,
        "cu_seqlens": torch.arange(sequences + 1) * (length // sequences) if sequences else None,
    }


def _aperiodic_inputs(
    dtype: torch.dtype, batch: int, length: int, width: int, sequences: int = 0, state: bool = True
) -> dict[str, Tensor | None]:
    return {
        "u": torch.randn(batch, length, width, dtype=dtype),
        "scale": torch.rand(width) - 0.5,
        "phase": golden_phases(width),
    } | _state_and_packing((width,), batch, length, sequences, state)


def _aperiodic(path: str, dtype: torch.dtype, shape: dict[str, int]) -> Scan:
    return Scan(f"{path}, {short(dtype)}", aperiodic_scan, partial(_aperiodic_inputs, dtype, **shape))


def aperiodic_scan_cases() -> Iterator[Case]:
    """Time loops, the chunked backward, Newton's forward, the step."""
    for dtype in DTYPES:
        quick = dtype == torch.float32
        for path, shape, bound in (
            ("time loop", TIME_LOOP, ONE_PASS),
            ("packed", PACKED, ONE_PASS),
            ("no initial state", STATELESS, ONE_PASS),
            ("odd sizes", ODD, LOOSE),
            ("many lanes", MANY_LANES, None),
        ):
            scan = _aperiodic(path, dtype, shape)
            yield scan.forward(bound, quick=quick and path == "time loop")
            yield scan.backward(bound, quick=quick and path == "time loop")
        yield _aperiodic("chunked", dtype, CHUNKED).backward(two_pass(read=2, written=1), quick=quick)
        yield _aperiodic("newton", dtype, CHUNKED).forward(NEWTON, quick=quick, method="newton")
        yield _aperiodic("decoding", dtype, ONE_STEP).step(aperiodic_scan_step_, ONE_PASS)


def _rotation_inputs(
    dtype: torch.dtype,
    angle: str,
    decay: str,
    batch: int,
    length: int,
    width: int,
    sequences: int = 0,
    state: bool = True,
    gated: bool = False,
) -> dict[str, Tensor | None]:
    def parameter(kind: str) -> Tensor:
        return torch.rand(width) if kind == "constant" else torch.rand(batch, length, width).to(dtype)

    x = {"x": torch.randn(batch, length, width, 2, dtype=dtype)}
    gate = {"gate": torch.randn(batch, length, width, dtype=dtype)} if gated else {}
    return (
        x
        | gate
        | {
            "angle": parameter(angle),
            "log_damping" if gated else "log_decay": None if decay == "no" else -0.1 * parameter(decay),
        }
        | _state_and_packing((width, 2), batch, length, sequences, state)
    )


def _rotation(path: str, dtype: torch.dtype, angle: str, decay: str, shape: dict[str, int]) -> Scan:
    name = f"{path}, {angle} angle, {decay} decay, {short(dtype)}"
    return Scan(name, rotation_scan, partial(_rotation_inputs, dtype, angle, decay, **shape))


def rotation_scan_cases() -> Iterator[Case]:
    """Time loops in every form; what else there is in the forms that differ most."""
    for dtype, angle, decay in product(DTYPES, ANGLES, DECAYS):
        # Both kinds of parameters and both dtypes, in two of the twelve forms.
        telling = angle == decay == ("constant" if dtype == torch.float32 else "token")
        tokens = (angle == "token") + (decay == "token")
        scan = _rotation("time loop", dtype, angle, decay, TIME_LOOP)
        yield scan.forward(ONE_PASS, quick=telling)
        yield scan.backward(ONE_PASS, quick=telling)
        if dtype == torch.float32 or telling:
            spans = _rotation("side by side", dtype, angle, decay, SIDE_BY_SIDE)
            yield spans.forward(ONE_PASS, quick=telling)
            yield spans.backward(ONE_PASS, quick=telling)
        if angle == decay:
            chunked = _rotation("chunked", dtype, angle, decay, MANY_CHUNKS)
            # The first pass reads the cotangent and the tokens' parameters, not h.
            bounds = two_pass(read=2 + tokens, written=2), two_pass(read=2 + tokens, written=4 + tokens)
            # Slow in the interpreter: counted in one form, and in a gated one.
            counted = telling and angle == "token"
            values, gradients = bounds if counted else (None, None)
            yield chunked.forward(values, quick=telling and not counted)
            yield chunked.backward(gradients, quick=telling and not counted)
        if angle == decay or dtype == torch.float32:  # more lanes a thread: most registers
            many = _rotation("many lanes", dtype, angle, decay, MANY_LANES)
            yield many.forward()
            yield many.backward()
        if telling:  # how the rows are laid out does not depend on the form
            yield scan.backward_to_first(ONE_PASS)
            yield spans.backward_to_first(ONE_PASS)
            for path, shape, bound in (
                ("packed", PACKED, ONE_PASS),
                ("side by side, packed", PACKED_SIDE_BY_SIDE, ONE_PASS),
                ("no initial state", STATELESS, ONE_PASS),
                ("odd sizes", ODD, LOOSE),
            ):
                scan = _rotation(path, dtype, angle, decay, shape)
                yield scan.forward(bound)
                yield scan.backward(bound)
            yield _rotation("decoding", dtype, angle, decay, ONE_STEP).step(rotation_scan_step_, DECODING)


def _oscillatory(path: str, dtype: torch.dtype, angle: str, damping: str, shape: dict[str, int]) -> Scan:
    name = f"{path}, {angle} angle, {damping} damping, {short(dtype)}"
    inputs = partial(_rotation_inputs, dtype, angle, damping, gated=True, **shape)
    return Scan(name, oscillatory_scan, inputs, saves_first=True)


def oscillatory_scan_cases() -> Iterator[Case]:
    """The gated forms of the rotation's kernels."""
    forms = (("constant", "no"), ("constant", "constant"), ("token", "token"))
    for dtype, (angle, damping) in product(DTYPES, forms):
        telling = angle == damping == ("constant" if dtype == torch.float32 else "token")
        tokens = (angle == "token") + (damping == "token")
        scan = _oscillatory("time loop", dtype, angle, damping, TIME_LOOP)
        yield scan.forward(ONE_PASS, quick=telling)
        yield scan.backward(ONE_PASS, quick=telling)
        if dtype == torch.float32:
            many = _oscillatory("many lanes", dtype, angle, damping, MANY_LANES)
            yield many.forward()
            yield many.backward()
        if dtype == torch.float32 or telling:
            spans = _oscillatory("side by side", dtype, angle, damping, SIDE_BY_SIDE)
            yield spans.forward(ONE_PASS)
            yield spans.backward(ONE_PASS)
        if telling:
            yield scan.backward_to_first(ONE_PASS)
            yield spans.backward_to_first(ONE_PASS)
            chunked = _oscillatory("chunked", dtype, angle, damping, MANY_CHUNKS)
            # The first pass reads the cotangent, the gate and the tokens' parameters; neither h nor x.
            bounds = two_pass(read=3 + tokens, written=2), two_pass(read=3 + tokens, written=7 + tokens)
            counted = angle == "constant"  # slow in the interpreter
            values, gradients = bounds if counted else (None, None)
            yield chunked.forward(values, quick=not counted)
            yield chunked.backward(gradients, quick=not counted)
            packed = _oscillatory("packed", dtype, angle, damping, PACKED)
            yield packed.forward(ONE_PASS)
            yield packed.backward(ONE_PASS)
            decoding = _oscillatory("decoding", dtype, angle, damping, ONE_STEP)
            yield decoding.step(oscillatory_scan_step_, DECODING)


def _linoss_inputs(
    critical: bool, batch: int, length: int, width: int, sequences: int = 0
) -> dict[str, Tensor | None]:
    return {
        "u": torch.randn(batch, length, width),
        "A": torch.zeros(width) if critical else 0.1 + torch.rand(width),
        "dt": 0.5 + torch.rand(width),
    } | _state_and_packing((width, 2), batch, length, sequences, state=True)


def linoss_scan_cases() -> Iterator[Case]:
    """The rotation's kernels on pairs that torch makes, and the matrix loop of critical channels."""
    # Pairs in float32 are twice u and the positions; critical channels go through both loops. Gradients to u,
    # A and dt come from a kernel that reads the pairs and their gradients.
    rotating = Bound(unique=2.1, sectors=1.02), Bound(unique=3.3, sectors=1.02)
    critical = Bound(unique=4.2, sectors=1.02), Bound(unique=4.6, sectors=1.02)
    odd = Bound(unique=5.0, sectors=2.5)
    for path, inputs, (forward, backward) in (
        ("rotating", partial(_linoss_inputs, False, **TIME_LOOP), rotating),
        ("critical", partial(_linoss_inputs, True, **TIME_LOOP), critical),
        ("critical, packed", partial(_linoss_inputs, True, **PACKED), critical),
        ("critical, odd sizes", partial(_linoss_inputs, True, **ODD), (odd, odd)),
    ):
        scan = Scan(path, linoss_scan, inputs)
        yield scan.forward(forward, quick=path == "critical")
        yield scan.backward(backward, quick=path == "critical")
