"""selective_scan on both backends, against the float64 reference."""

import importlib
import itertools
import mmap

import pytest
import torch

from phasefield_kernels import native, selective_scan, selective_scan_step, selective_scan_step_, use_backend
from phasefield_kernels.selective_scan import tiles
from tests.machinery.comparison import assert_agrees_with_reference, relative_error

NAMES = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias", "initial_state")


def draw(batch, length, width, states, groups=None, is_complex=False, plain=False, rows=None, seed=0):
    """Arguments by name, in the op's order; ``plain`` leaves out what is optional."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    pair = (2,) if is_complex else ()
    A = -torch.rand(width, states, generator=generator)
    A = torch.stack([A, 3 * random(width, states)], dim=-1) if is_complex else A
    projection = (batch, length, *(() if groups is None else (groups,)), states, *pair)
    given = {
        "x": random(batch, length, width),
        "dt": torch.rand(batch, length, width, generator=generator),
        "A": A,
        "B": random(*projection),
        "C": random(*projection),
    }
    optional = {
        "D": random(width),
        "z": random(batch, length, width),
        "dt_bias": random(width),
        "initial_state": random(rows or batch, width, states, *pair),
    }
    return given | (dict.fromkeys(optional) if plain else optional)


@pytest.fixture(params=["torch", "native", "triton"])
def backend(request, monkeypatch):
    """Each backend, cut so that short sequences have several chunks and segments."""
    cut_short(request.param, monkeypatch)
    return request.param


def cut_short(backend, monkeypatch, shortest_chunk=1_024):
    if backend == "torch":
        monkeypatch.setattr(tiles, "_CHUNK", 1)
    elif backend == "triton":
        fused = importlib.import_module("phasefield_kernels.selective_scan.fused")
        monkeypatch.setattr(fused, "SEGMENT", 8)
        monkeypatch.setattr(fused, "TIME_LOOP", fused.TIME_LOOP._replace(shortest_chunk=shortest_chunk))


FORMS = list(itertools.product((None, 1, 3), (False, True)))
F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
AGREEMENT = [
    ("torch", *form, dtype, layout)
    for form, dtype, layout in itertools.product(FORMS, (F32, BF16, F16), ("batch", "packed"))
]
AGREEMENT += [
    ("native", groups, False, dtype, layout)
    for groups, dtype, layout in itertools.product((None, 1, 3), (F32, BF16, F16), ("batch", "packed"))
]
# The interpreter is slow: each form, dtype and way of laying out the time, not each with each.
AGREEMENT += [
    ("triton", None, False, F32, "batch"),
    ("triton", 3, True, F32, "batch"),
    ("triton", 3, False, BF16, "chunks"),
    ("triton", None, True, F16, "chunks"),
    ("triton", 1, False, F16, "packed"),
    ("triton", None, True, BF16, "packed"),
]


@pytest.mark.parametrize(("backend", "groups", "is_complex", "dtype", "layout"), AGREEMENT, ids=str)
def test_it_agrees_with_its_definition(backend, groups, is_complex, dtype, layout, device, monkeypatch):
    cut_short(backend, monkeypatch, shortest_chunk=10 if layout == "chunks" else 1_024)
    offsets = torch.tensor([0, 7, 7, 22, 23]) if layout == "packed" else None
    tensors = draw(
        2 if layout == "batch" else 1, 23, 9, 5, groups, is_complex, rows=4 if offsets is not None else None
    )
    rounding = {F32: 2**-24, BF16: 2**-9, F16: 2**-12}[dtype]
    # 23 steps and 5 states: 5 roundings each in float32, adding like square roots; the kernels' exponentials,
    # softplus and sines are off by up to 7 such roundings. One rounding to the output's dtype, and one of
    # a gradient that is returned in it.
    float32 = (12 if backend == "triton" else 5) * 2**-24 * (23 * 5) ** 0.5
    by_dtype = ("x", "dt", "B", "C", "z")
    assert_agrees_with_reference(
        selective_scan,
        tensors | {"cu_seqlens": offsets},
        backend=backend,
        dtype=dtype,
        by_dtype=by_dtype,
        tolerance={"out1": float32, "default": float32 + 2 * rounding},
        device=device,
        dt_softplus=True,
    )


@pytest.mark.parametrize("backend", ["torch", "native", "triton"])
def test_nothing_optional_has_to_be_given(backend, device, monkeypatch):
    cut_short(backend, monkeypatch)
    assert_agrees_with_reference(
        selective_scan,
        draw(2, 11, 5, 3, plain=True),
        backend=backend,
        dtype=F32,
        by_dtype=(),
        tolerance={"default": 12 * 2**-24 * (11 * 3) ** 0.5},
        device=device,
    )


@pytest.mark.parametrize(("width", "states", "groups"), [(197, 3, None), (1, 1, None), (75, 17, 3)])
def test_native_blocks_of_any_width_agree(width, states, groups):
    if native.compiler() is None:
        pytest.skip("there is no C compiler")
    # Several units of work side by side, the last of them narrower; sums over channels of many roundings.
    assert_agrees_with_reference(
        selective_scan,
        draw(2, 37, width, states, groups),
        backend="native",
        dtype=F32,
        by_dtype=(),
        tolerance={"default": 8 * 2**-24 * (37 * states) ** 0.5},
        dt_softplus=True,
    )


def test_gradients_are_right_in_float64(monkeypatch):
    cut_short("torch", monkeypatch)
    for groups, is_complex in FORMS:
        tensors = draw(2, 6, 3, 2, groups, is_complex)
        inputs = [tensor.double().requires_grad_() for tensor in tensors.values()]

        def function(*inputs):
            named = dict(zip(NAMES, inputs, strict=True))
            return selective_scan(**named, dt_softplus=True, backend="torch")

        assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize(
    ("backend", "plain"), [("torch", False), ("torch", True), ("native", False), ("triton", False)]
)
def test_the_operator_is_registered_as_torch_wants(backend, plain):
    tensors = draw(2, 6, 3, 2, plain=plain)
    leaves = {name: None if t is None else t.requires_grad_() for name, t in tensors.items()}
    order = ("x", "dt", "B", "C", "z", "A", "D", "dt_bias")
    arguments = [leaves[name] for name in order]
    torch.library.opcheck(
        torch.ops.phasefield.selective_scan.default,
        (*arguments, True, leaves["initial_state"], None, backend),
    )
    step = [None if t is None else t.detach() for t in arguments]
    step = [t[:, :1] if t is not None and t.ndim == 3 else t for t in step]
    torch.library.opcheck(
        torch.ops.phasefield.selective_scan_step_.default, (*step, True, torch.randn(2, 3, 2), backend)
    )


def test_it_compiles_in_one_graph_with_its_backward():
    tensors = draw(2, 9, 4, 3)
    x = tensors.pop("x").requires_grad_()

    def function(x):
        y, final = selective_scan(x * 2, **tensors)
        return y.square().sum() + final.sum()

    (expected,) = torch.autograd.grad(function(x), x)
    (actual,) = torch.autograd.grad(torch.compile(function, fullgraph=True, backend="aot_eager")(x), x)
    torch.testing.assert_close(actual, expected)


def test_it_exports():
    tensors = draw(2, 9, 4, 3)
    x = tensors.pop("x")

    class Module(torch.nn.Module):
        def forward(self, x):
            return selective_scan(x, **tensors)

    torch.testing.assert_close(torch.export.export(Module(), (x,)).module()(x), Module()(x))


def test_autocast_and_inference_mode_change_nothing():
    leaves = {name: tensor.requires_grad_() for name, tensor in draw(2, 9, 4, 3).items()}
    tensors = {name: tensor.detach() for name, tensor in leaves.items()}

    def gradients():
        y, final = selective_scan(**leaves)
        return torch.autograd.grad(y.sum() + final.sum(), list(leaves.values()))

    expected, expected_gradients = selective_scan(**tensors), gradients()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(gradients(), expected_gradients, rtol=0, atol=0)
        with torch.inference_mode():
            torch.testing.assert_close(selective_scan(**tensors), expected, rtol=0, atol=0)


def test_the_step_in_place_refuses_to_drop_a_gradient():
    token = at(draw(2, 1, 4, 3), 0) | {"dt_softplus": True}
    state = torch.zeros(2, 4, 3)
    token["B"].requires_grad_()
    with pytest.raises(RuntimeError, match="selective_scan_step_ changes its state in place"):
        selective_scan_step_(**token, state=state)
    with torch.no_grad():
        selective_scan_step_(**token, state=state)


def at(tensors, piece):
    tokens = {name: tensors[name][:, piece] for name in ("x", "dt", "B", "C", "z")}
    return {name: tensors[name] for name in ("A", "D", "dt_bias")} | tokens


@pytest.mark.parametrize(
    ("backend", "groups", "is_complex"),
    [("torch", *form) for form in FORMS]
    + [("native", None, False), ("native", 3, False), ("triton", 3, False), ("triton", None, True)],
)
def test_pieces_packed_sequences_and_steps_equal_the_whole(backend, groups, is_complex, device, monkeypatch):
    cut_short(backend, monkeypatch)
    tensors = {name: tensor.to(device) for name, tensor in draw(1, 23, 6, 4, groups, is_complex).items()}
    state = start = tensors["initial_state"]
    with use_backend(backend):
        _assert_pieces_equal_the_whole(tensors, state, start)


def _assert_pieces_equal_the_whole(tensors, state, start):
    whole, final = selective_scan(**tensors, dt_softplus=True)
    begin, lengths = 0, [0, 5, 1, 17]
    for length in lengths:
        piece = at(tensors, slice(begin, begin + length))
        y, state = selective_scan(**piece, dt_softplus=True, initial_state=state)
        assert relative_error(y, whole[:, begin : begin + length]) < 1e-6
        begin += length
    assert relative_error(state, final) < 1e-6

    offsets = torch.tensor([0, *itertools.accumulate(lengths)], device=start.device)
    states = torch.randn(4, *start.shape[1:], device=start.device)
    y, finals = selective_scan(**tensors | {"initial_state": states}, dt_softplus=True, cu_seqlens=offsets)
    for s in range(4):
        piece = slice(int(offsets[s]), int(offsets[s + 1]))
        alone, last = selective_scan(**at(tensors, piece), dt_softplus=True, initial_state=states[s : s + 1])
        assert relative_error(y[:, piece], alone) < 1e-6
        assert relative_error(finals[s : s + 1], last) < 1e-6

    state, in_place = start, start.clone()
    for t in range(23):
        token = at(tensors, t)
        y, state = selective_scan_step(**token, dt_softplus=True, state=state)
        torch.testing.assert_close(y, whole[:, t])
        torch.testing.assert_close(
            selective_scan_step_(**token, dt_softplus=True, state=in_place), whole[:, t]
        )
    torch.testing.assert_close(in_place, final)


def test_three_hundred_thousand_steps_equal_their_chunks():
    tensors = draw(1, 300_000, 2, 2)
    whole, final = selective_scan(**tensors, dt_softplus=True)
    assert whole.isfinite().all()
    state = tensors["initial_state"]
    for begin in range(0, 300_000, 70_000):
        piece = slice(begin, begin + 70_000)
        y, state = selective_scan(**at(tensors, piece), dt_softplus=True, initial_state=state)
        torch.testing.assert_close(y, whole[:, piece], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state, final, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 0, 3, 2), (0, 4, 3, 2), (2, 3, 0, 2), (2, 3, 4, 0)])
def test_empty_inputs_give_empty_outputs(shape, backend, device):
    tensors = {name: tensor.to(device).requires_grad_() for name, tensor in draw(*shape).items()}
    y, final = selective_scan(**tensors, backend=backend)
    assert y.shape == tensors["x"].shape
    if shape[1] == 0:
        assert torch.equal(final, tensors["initial_state"])
    (y.sum() + final.sum()).backward()
    assert all(tensor.grad.shape == tensor.shape for tensor in tensors.values())


@pytest.mark.parametrize("is_complex", [False, True])
def test_strides_do_not_matter(is_complex, backend, device):
    if is_complex and backend == "native":
        with pytest.raises(ValueError, match="no native form for these arguments"):
            selective_scan(**draw(1, 2, 3, 2, is_complex=True), backend=backend)
        return
    tensors = {name: t.to(device) for name, t in draw(3, 9, 6, 4, groups=2, is_complex=is_complex).items()}
    expected, _ = selective_scan(**tensors, backend=backend)
    views = {
        name: t.movedim(0, -1).contiguous().movedim(-1, 0) if t.ndim > 2 else t for name, t in tensors.items()
    }
    torch.testing.assert_close(selective_scan(**views, backend=backend)[0], expected)
    repeated = {name: tensors[name][:1].expand_as(tensors[name]) for name in ("x", "dt", "B", "C", "z")}
    torch.testing.assert_close(selective_scan(**tensors | repeated, backend=backend)[0][0], expected[0])


def test_offsets_beyond_two_to_the_31_are_right(backend):
    # Views of memory that is never touched but for their elements.
    if torch.cuda.is_available():
        pytest.skip("the memory has to be the CPU's, which the GPU does not read")
    tensors = {name: t.bfloat16() for name, t in draw(2, 3, 2, 2).items()}
    expected, final = selective_scan(**tensors, backend=backend)
    far = {}
    for name in ("x", "dt", "B", "C", "z"):
        strides = (2**31 + 64, 2**29 + 8, 2**28 + 4)
        elements = 1 + sum(
            (size - 1) * stride for size, stride in zip(tensors[name].shape, strides, strict=True)
        )
        memory = torch.frombuffer(mmap.mmap(-1, 2 * elements), dtype=torch.bfloat16)
        far[name] = memory.as_strided(tensors[name].shape, strides).copy_(tensors[name])
    y, last = selective_scan(**tensors | far, backend=backend)
    assert torch.equal(y, expected)
    assert torch.equal(last, final)


def test_the_same_inputs_give_the_same_bits(backend, device):
    tensors = {name: t.to(device).requires_grad_() for name, t in draw(2, 19, 40, 3).items()}

    def run():
        y, final = selective_scan(**tensors, dt_softplus=True, backend=backend)
        return [y, final, *torch.autograd.grad(y.sum() + final.sum(), list(tensors.values()))]

    assert all(torch.equal(one, other) for one, other in zip(run(), run(), strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(dt=torch.zeros(2, 4)), r"dt has shape \[2, 4\]; allowed is \[2, 4, 6\]"),
        (dict(C=torch.zeros(2, 4, 2, 5)), r"C has shape .*; allowed is B's, \[2, 4, 5\]"),
        (dict(B=torch.zeros(2, 4, 4, 5), C=torch.zeros(2, 4, 4, 5)), "B has 4 groups; .* divides D = 6"),
        (dict(A=torch.zeros(6)), r"A has shape \[6\]"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        selective_scan(**draw(2, 4, 6, 5) | change)
