"""rotation_scan beyond agreement with its reference (which test_agreement.py checks)."""

import itertools
import math
from fractions import Fraction

import pytest
import torch

from phasefield_kernels import native, rotation_scan, rotation_scan_step, rotation_scan_step_

BACKENDS = ("torch", "native", "triton")
ON_A_CPU = ("torch", "native")
PI = Fraction("3.14159265358979323846264338327950288419716939937510")
FORMS = list(itertools.product(("constant", "token"), (None, "constant", "token")))


def draw(batch, length, width, angle="constant", decay="constant", device="cpu", seed=0):
    generator = torch.Generator().manual_seed(seed)

    def parameter(kind):
        return torch.rand(*((width,) if kind == "constant" else (batch, length, width)), generator=generator)

    x = torch.randn(batch, length, width, 2, generator=generator)
    state = torch.randn(batch, width, 2, generator=generator)
    log_decay = None if decay is None else -0.3 * parameter(decay).to(device)
    return x.to(device), (6 * parameter(angle)).to(device), log_decay, state.to(device)


def assert_close(actual, expected, steps):
    # Each step rounds the factor and the product: 4 · 2^-24 of the state; errors of T steps add like √T.
    largest = expected.abs().max().item() if expected.numel() else 1.0
    bound = 4 * 2**-24 * math.sqrt(steps + 1) * max(1.0, largest)
    torch.testing.assert_close(actual, expected, rtol=0, atol=4 * bound)


@pytest.mark.parametrize(("angle", "decay"), FORMS)
def test_gradients_are_right_in_float64(angle, decay):
    x, angle, log_decay, state = draw(2, 11, 3, angle, decay)
    inputs = [t.double().requires_grad_() for t in (x, angle, state)]
    if log_decay is not None:
        inputs.append(log_decay.double().requires_grad_())

    def function(x, angle, state, log_decay=None):
        return rotation_scan(x, angle, log_decay, state, backend="torch")

    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("backend", ON_A_CPU)
@pytest.mark.parametrize(("angle", "decay"), FORMS)
def test_the_operator_is_registered_as_torch_wants(angle, decay, backend):
    x, angle, log_decay, state = draw(2, 6, 3, angle, decay)
    arguments = [None if t is None else t.requires_grad_() for t in (x, angle, log_decay, None, state)]
    torch.library.opcheck(torch.ops.phasefield.rotation_scan.default, (*arguments, None, backend))
    x, angle, log_decay, _, state = (None if t is None else t.detach() for t in arguments)
    backward = (torch.randn_like(x), torch.randn_like(state), x, None, angle, log_decay, None, state, None)
    for needed in (True, False):
        torch.library.opcheck(
            torch.ops.phasefield.rotation_scan_backward.default, (*backward, needed, backend)
        )


def test_the_step_is_registered_as_torch_wants():
    x, angle, log_decay, state = draw(2, 1, 3)
    torch.library.opcheck(
        torch.ops.phasefield.rotation_scan_step_.default, (x[:, 0], angle, log_decay, None, state, "torch")
    )


def test_it_compiles_in_one_graph_with_its_backward():
    x, angle, log_decay, state = draw(2, 9, 4, "token", "token")
    x.requires_grad_()

    def function(x):
        h, final = rotation_scan(x * 2, angle, log_decay, state)
        return h.square().sum() + final.sum()

    (expected,) = torch.autograd.grad(function(x), x)
    (actual,) = torch.autograd.grad(torch.compile(function, fullgraph=True, backend="aot_eager")(x), x)
    torch.testing.assert_close(actual, expected)


def test_it_exports():
    class Module(torch.nn.Module):
        def forward(self, x, angle, log_decay):
            return rotation_scan(x, angle, log_decay)[0]

    inputs = draw(2, 6, 4)[:3]
    torch.testing.assert_close(torch.export.export(Module(), inputs).module()(*inputs), Module()(*inputs))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("angle", "decay"), FORMS)
def test_pieces_fed_one_by_one_give_the_whole(backend, angle, decay, device):
    x, angle, log_decay, state = draw(2, 29, 5, angle, decay, device)
    whole, final = rotation_scan(x, angle, log_decay, state, backend=backend)
    begin = 0
    for length in (1, 9, 0, 19):
        piece = slice(begin, begin + length)
        by_token = [p[:, piece] if p is not None and p.ndim == 3 else p for p in (angle, log_decay)]
        h, state = rotation_scan(x[:, piece], *by_token, state, backend=backend)
        assert_close(h, whole[:, piece], 29)
        begin += length
    assert_close(state, final, 29)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
@pytest.mark.parametrize(("angle", "decay"), FORMS)
def test_packed_sequences_are_scanned_apart(backend, angle, decay, device):
    x, angle, log_decay, _ = draw(1, 20, 5, angle, decay, device)
    lengths = [0, 7, 0, 12, 1]
    offsets = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=device)
    states = torch.randn(5, 5, 2, device=device)
    h, final = rotation_scan(x, angle, log_decay, states, cu_seqlens=offsets, backend=backend)
    for s in range(5):
        piece = slice(int(offsets[s]), int(offsets[s + 1]))
        by_token = [p[:, piece] if p is not None and p.ndim == 3 else p for p in (angle, log_decay)]
        expected, last = rotation_scan(x[:, piece], *by_token, states[s : s + 1], backend=backend)
        assert_close(h[:, piece], expected, 20)
        assert_close(final[s : s + 1], last, 20)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("angle", "decay"), FORMS)
def test_steps_equal_the_scan(backend, angle, decay, device):
    x, angle, log_decay, state = draw(3, 6, 5, angle, decay, device)
    whole, final = rotation_scan(x, angle, log_decay, state, backend=backend)
    in_place = state.clone()
    for t, x_t in enumerate(x.unbind(1)):
        by_token = [p[:, t] if p is not None and p.ndim == 3 else p for p in (angle, log_decay)]
        h, state = rotation_scan_step(x_t, *by_token, state, backend=backend)
        assert_close(h, whole[:, t], 6)
        assert_close(rotation_scan_step_(x_t, *by_token, in_place, backend=backend), whole[:, t], 6)
    assert_close(state, final, 6)
    assert_close(in_place, final, 6)


def test_the_step_in_place_refuses_to_drop_a_gradient():
    x, angle, log_decay, state = draw(2, 1, 3)
    with pytest.raises(RuntimeError, match="rotation_scan_step_ changes its state in place"):
        rotation_scan_step_(x[:, 0], angle.requires_grad_(), log_decay, state)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("angle", "decay"), FORMS)
@pytest.mark.parametrize("shape", [(2, 0, 3), (0, 4, 3), (2, 3, 0)])
def test_empty_inputs_give_empty_outputs(backend, angle, decay, shape, device):
    x, angle, log_decay, state = draw(*shape, angle, decay, device)
    inputs = [t.requires_grad_() for t in (x, angle, log_decay, state) if t is not None]
    h, final = rotation_scan(x, angle, log_decay, state, backend=backend)
    assert h.shape == x.shape
    if shape[1] == 0:
        assert torch.equal(final, state)
        assert final.data_ptr() != state.data_ptr()
    final.sum().backward()
    assert all(t.grad.shape == t.shape for t in inputs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("length", [8, 9])
def test_strides_do_not_matter(backend, length, device):
    x, angle, log_decay, _ = draw(4, length, 34, "token", "token", device)
    expected, _ = rotation_scan(x, angle, log_decay, backend=backend)

    def transposed(t):
        return t.transpose(0, 1).contiguous().transpose(0, 1)

    def columns(t):
        return t.transpose(1, 2).contiguous().transpose(1, 2)

    def odd_offset(t):
        return torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape)

    for view in (transposed, columns, odd_offset):
        h, _ = rotation_scan(view(x), view(angle), view(log_decay), backend=backend)
        assert_close(h, expected, 9)
    repeated = [t[:1].expand_as(t) for t in (x, angle, log_decay)]
    assert_close(rotation_scan(*repeated, backend=backend)[0], expected[:1].expand_as(x), 9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_inputs_give_the_same_bits(backend, device):
    x, angle, log_decay, state = draw(2, 12, 35, device=device)
    inputs = [t.requires_grad_() for t in (x, angle, log_decay)]

    def once():
        h, final = rotation_scan(x, angle, log_decay, state, backend=backend)
        return (h, final, *torch.autograd.grad(h.square().sum() + final.sum(), inputs))

    for one, other in zip(once(), once(), strict=True):
        assert torch.equal(one, other)


class TestPhaseOverAMillionSteps:
    """The undamped response to an impulse at t = 0 stays within 1e-6 rad of the exact phase."""

    STEPS = 1_000_000
    WIDTH = 4

    def angles(self):
        generator = torch.Generator().manual_seed(5)
        return (torch.rand(self.WIDTH, generator=generator, dtype=torch.float64) * 2 - 1) * math.pi

    def phase_error(self, h, angle, t):
        # Steps t of h [T', D, 2] against θ t, reduced as integers of 2^-64 turns. The angle's turns are
        # rationals, with π to 50 digits; rounded to 2^-64 they are off by 2e-13 rad at t = 10^6.
        units = [round(Fraction(θ) / (2 * PI) * 2**64) for θ in angle.tolist()]
        wrapped = torch.tensor([(u + 2**63) % 2**64 - 2**63 for u in units])
        exact = (wrapped * t.unsqueeze(1)).double() * (2 * math.pi / 2**64)
        actual = torch.atan2(h[..., 1].double(), h[..., 0].double())
        return (torch.remainder(actual - exact + math.pi, 2 * math.pi) - math.pi).abs().max().item()

    @pytest.mark.parametrize("backend", ON_A_CPU)
    @pytest.mark.parametrize("decay", [None, "constant", "token"])
    def test_in_one_call(self, decay, backend):
        angle = self.angles()
        x = torch.zeros(1, self.STEPS, self.WIDTH, 2)
        x[:, 0, :, 0] = 1
        shape = (self.WIDTH,) if decay == "constant" else (1, self.STEPS, self.WIDTH)
        log_decay = None if decay is None else torch.zeros(shape)
        h, _ = rotation_scan(x, angle, log_decay, backend=backend)
        assert self.phase_error(h[0], angle, torch.arange(self.STEPS)) < 1e-6

    @pytest.mark.parametrize("backend", ON_A_CPU)
    @pytest.mark.parametrize("chunk", [4_000, 100_000])
    def test_chunk_by_chunk(self, chunk, backend):
        angle = self.angles()
        x = torch.zeros(1, chunk, self.WIDTH, 2)
        state = torch.zeros(1, self.WIDTH, 2)
        worst = 0.0
        for begin in range(0, self.STEPS, chunk):
            x[:, 0, :, 0] = float(begin == 0)
            h, state = rotation_scan(x, angle, None, state, backend=backend)
            worst = max(worst, self.phase_error(h[0], angle, torch.arange(begin, begin + chunk)))
        assert worst < 1e-6

    def test_in_the_fused_kernel(self, device):
        # In the interpreter a million steps take an hour: there the kernel shows it on fewer.
        angle = self.angles().to(device)
        x = torch.zeros(1, 300 if device == "cpu" else self.STEPS, self.WIDTH, 2, device=device)
        x[:, 0, :, 0] = 1
        h, final = rotation_scan(x, angle, backend="triton")
        steps = torch.arange(x.shape[1])
        assert self.phase_error(h[0].cpu(), angle.cpu(), steps) < 1e-6
        assert self.phase_error(final.cpu(), angle.cpu(), steps[-1:]) < 1e-6

    @pytest.mark.parametrize("backend", ON_A_CPU)
    def test_per_token_angles_stay_within_the_stated_bound(self, backend):
        steps = 100_000
        generator = torch.Generator().manual_seed(6)
        angle = (torch.rand(1, steps, self.WIDTH, generator=generator) * 2 - 1) * math.pi
        x = torch.zeros(1, steps, self.WIDTH, 2)
        x[:, 0, :, 0] = 1
        h, _ = rotation_scan(x, angle, backend=backend)
        exact, _ = rotation_scan(x.double(), angle.double())
        error = torch.view_as_complex(h.double()) * torch.view_as_complex(exact).conj()
        error = error.angle().abs().amax((0, 2))
        assert (error <= 2.5e-7 * torch.arange(1, steps + 1)).all()
        assert error.max() < 5 * 1e-7 * math.sqrt(steps)  # the typical size, and five times that


@pytest.mark.parametrize(
    ("sequences", "length", "width", "packed", "expected"),
    [
        (2, 1024, 1024, False, True),
        (1, 1024, 32, False, True),
        (1, 1152, 32, False, False),  # nine chunks, more than there are spans
        (2, 4096, 1024, False, True),  # lanes enough for eight chunks at most
        (2, 4096, 1020, False, False),
        (16, 1024, 1024, False, False),  # lanes enough for a thread each
        (2, 63, 32, False, False),  # less than a tile
        (2, 64, 32, False, True),
        (4, 270, 3, True, True),  # packed: by their average
        (5, 270, 3, True, False),
        (1, 100_000, 32, True, True),
        (0, 0, 3, True, False),
        (2, 0, 3, False, False),
    ],
)
def test_spans_side_by_side_are_for_few_lanes(sequences, length, width, packed, expected):
    pytest.importorskip("triton")
    from phasefield_kernels.rotation_scan.fused import spans_side_by_side

    assert (spans_side_by_side(sequences, length, width, packed) is not None) == expected


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_overflows_for_any_decay(backend):
    x, angle, _, state = draw(1, 64, 4)
    log_decay = torch.tensor([0.0, -1e-30, -1e4, -torch.inf])
    h, _ = rotation_scan(x, angle, log_decay, state, backend=backend)
    assert h.isfinite().all()
    assert_close(h[:, :, 3], x[:, :, 3], 1)


def test_large_angles_a_token_keep_their_phase():
    if native.compiler() is None:
        pytest.skip("there is no C compiler")
    angle = torch.randn(1, 50, 4, generator=torch.Generator().manual_seed(7)) * 1e6
    x = torch.randn(1, 50, 4, 2, generator=torch.Generator().manual_seed(8))
    exact, _ = rotation_scan(x.double(), angle.double(), -0.1 * torch.ones(4))
    assert_close(rotation_scan(x, angle, -0.1 * torch.ones(4), backend="native")[0], exact.float(), 50)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(x=torch.zeros(2, 3, 4)), r"x has shape \[2, 3, 4\]; allowed is \[B, T, D, 2\]"),
        (
            dict(x=torch.zeros(2, 3, 4, 2, dtype=torch.complex64)),
            "x has dtype complex64; allowed are float32",
        ),
        (dict(angle=torch.zeros(2, 3)), r"angle has shape \[2, 3\]; allowed is \[4\] or \[2, 3, 4\]"),
        (dict(log_decay=torch.zeros(3)), r"log_decay has shape \[3\]"),
        (
            dict(log_decay=torch.tensor([0.0, -1.0, 0.25, 0.0])),
            "log_decay reaches 0.25; allowed are logarithms",
        ),
        (dict(initial_state=torch.zeros(2, 4)), r"initial_state has shape \[2, 4\]; allowed is \[2, 4, 2\]"),
        (dict(cu_seqlens=torch.tensor([0, 3])), "x has batch size 2; with cu_seqlens it must be 1"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = dict(x=torch.zeros(2, 3, 4, 2), angle=torch.zeros(4)) | change
    with pytest.raises(ValueError, match=message):
        rotation_scan(**arguments)
