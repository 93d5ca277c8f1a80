"""aperiodic_scan beyond agreement with its reference (which test_agreement.py checks)."""

import itertools

import pytest
import torch

from phasefield_kernels import aperiodic_scan, aperiodic_scan_step, aperiodic_scan_step_, golden_phases
from phasefield_kernels.aperiodic_scan import newton

BACKENDS = ("torch", "native", "triton")
NEWTON = ("torch", "triton")  # there is no other form of it
# Outputs are below 1 and every step adds a few roundings (2^-24 each), which contracting lanes forget.
CLOSE = dict(rtol=0, atol=2e-6)


def draw(batch, length, width, device, seed=0):
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(batch, length, width, generator=generator)
    scale = torch.rand(width, generator=generator) * 2 - 1
    phase = torch.randn(width, generator=generator) * 3
    state = torch.randn(batch, width, generator=generator)
    return [x.to(device) for x in (u, scale, phase, state)]


def test_gradients_are_right_in_float64():
    u, scale, phase, state = (x.double() for x in draw(2, 5, 3, "cpu"))
    inputs = (u.requires_grad_(), scale.requires_grad_(), state.requires_grad_())
    assert torch.autograd.gradcheck(lambda u, c, s: aperiodic_scan(u, c, phase, s, backend="torch"), inputs)


@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize("packed", [False, True])
def test_the_operator_is_registered_as_torch_wants(packed, backend):
    u, scale, phase, state = draw(1, 6, 3, "cpu")
    offsets = torch.tensor([0, 6]) if packed else None
    arguments = (
        u.requires_grad_(),
        scale.requires_grad_(),
        phase,
        state.requires_grad_(),
        offsets,
        "exact",
        backend,
    )
    torch.library.opcheck(torch.ops.phasefield.aperiodic_scan.default, arguments)
    grads = (torch.randn_like(u), torch.randn_like(state), u.detach(), scale.detach(), phase, state.detach())
    torch.library.opcheck(torch.ops.phasefield.aperiodic_scan_backward.default, (*grads, offsets, backend))
    step = (u[:, 0].detach(), scale.detach(), phase, state.detach(), backend)
    torch.library.opcheck(torch.ops.phasefield.aperiodic_scan_step_.default, step)


def test_it_compiles_in_one_graph_with_its_backward():
    u, scale, phase, state = draw(2, 6, 4, "cpu")
    u.requires_grad_()

    def function(u):
        h, final = aperiodic_scan(u * 2, scale, phase, state)
        return h.square().sum() + final.sum()

    (expected,) = torch.autograd.grad(function(u), u)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    (actual,) = torch.autograd.grad(compiled(u), u)
    torch.testing.assert_close(actual, expected)


def test_the_step_compiles_and_changes_its_state_in_place():
    u, scale, phase, state = draw(2, 1, 4, "cpu")
    compiled = torch.compile(aperiodic_scan_step_, fullgraph=True, backend="aot_eager")
    mine, theirs = state.clone(), state.clone()
    with torch.no_grad():
        torch.testing.assert_close(
            compiled(u[:, 0], scale, phase, mine), aperiodic_scan_step_(u[:, 0], scale, phase, theirs)
        )
    torch.testing.assert_close(mine, theirs)
    assert not torch.equal(mine, state)


def test_it_exports():
    class Module(torch.nn.Module):
        def forward(self, u, scale, phase):
            return aperiodic_scan(u, scale, phase)[0]

    inputs = tuple(draw(2, 6, 4, "cpu")[:3])
    exported = torch.export.export(Module(), inputs)
    torch.testing.assert_close(exported.module()(*inputs), Module()(*inputs))


@pytest.mark.parametrize("backend", BACKENDS)
def test_pieces_fed_one_by_one_give_the_whole(backend, device):
    u, scale, phase, state = draw(2, 23, 35, device)
    whole, final = aperiodic_scan(u, scale, phase, state, backend=backend)
    pieces = []
    for piece in u.split([1, 9, 0, 13], dim=1):
        h, state = aperiodic_scan(piece, scale, phase, state, backend=backend)
        pieces.append(h)
    assert torch.equal(torch.cat(pieces, 1), whole)
    assert torch.equal(state, final)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_packed_sequences_are_scanned_apart(backend, device):
    u, scale, phase, _ = draw(1, 20, 5, device)
    lengths = [0, 7, 0, 12, 1]
    offsets = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=device)
    states = torch.randn(5, 5, device=device)
    h, final = aperiodic_scan(u, scale, phase, states, cu_seqlens=offsets, backend=backend)
    for s, piece in enumerate(u.split(lengths, dim=1)):
        expected, last = aperiodic_scan(piece, scale, phase, states[s : s + 1], backend=backend)
        assert torch.equal(h[:, offsets[s] : offsets[s + 1]], expected)
        assert torch.equal(final[s : s + 1], last)


@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_equal_the_scan(backend, device):
    u, scale, phase, state = draw(2, 5, 33, device)
    whole, final = aperiodic_scan(u, scale, phase, state, backend=backend)
    in_place = state.clone()
    for t, u_t in enumerate(u.unbind(1)):
        h, state = aperiodic_scan_step(u_t, scale, phase, state, backend=backend)
        torch.testing.assert_close(h, whole[:, t], **CLOSE)
        torch.testing.assert_close(
            aperiodic_scan_step_(u_t, scale, phase, in_place, backend=backend), whole[:, t], **CLOSE
        )
    torch.testing.assert_close(state, final, **CLOSE)
    torch.testing.assert_close(in_place, final, **CLOSE)


def test_the_step_in_place_refuses_to_drop_a_gradient():
    u, scale, phase, state = draw(2, 1, 3, "cpu")
    with pytest.raises(RuntimeError, match="aperiodic_scan_step_ changes its state in place"):
        aperiodic_scan_step_(u[:, 0].requires_grad_(), scale, phase, state)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(2, 0, 3), (0, 4, 3), (2, 3, 0)])
def test_empty_inputs_give_empty_outputs(backend, shape, device):
    u, scale, phase, state = draw(*shape, device)
    h, final = aperiodic_scan(u.requires_grad_(), scale, phase, state.requires_grad_(), backend=backend)
    assert h.shape == shape
    if shape[1] == 0:
        assert torch.equal(final, state)
        assert final.data_ptr() != state.data_ptr()
    final.sum().backward()
    assert u.grad.shape == shape


@pytest.mark.parametrize("backend", BACKENDS)
def test_strides_do_not_matter(backend, device):
    u, scale, phase, _ = draw(2, 9, 34, device)
    expected, _ = aperiodic_scan(u, scale, phase, backend=backend)
    transposed = u.transpose(0, 1).contiguous().transpose(0, 1)
    columns = u.transpose(1, 2).contiguous().transpose(1, 2)
    every_other = torch.stack([u, u], dim=-1).flatten(2)[..., ::2]
    for view in (transposed, columns, every_other):
        assert torch.equal(aperiodic_scan(view, scale, phase, backend=backend)[0], expected)
    broadcast = u[:1].expand(2, -1, -1)
    rows, _ = aperiodic_scan(broadcast, scale, phase, backend=backend)
    assert torch.equal(rows, expected[:1].expand(2, -1, -1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_inputs_give_the_same_bits(backend, device):
    u, scale, phase, state = draw(2, 12, 35, device)
    u.requires_grad_()
    scale.requires_grad_()

    def once():
        h, final = aperiodic_scan(u, scale, phase, state, backend=backend)
        return (h, final, *torch.autograd.grad(h.square().sum() + final.sum(), (u, scale)))

    for one, other in zip(once(), once(), strict=True):
        assert torch.equal(one, other)


def test_integer_phases_are_the_same_angles():
    u, scale, _, _ = draw(2, 9, 600, "cpu")
    phases = golden_phases(600)
    radians = torch.remainder(torch.arange(600, dtype=torch.float64) * 2.3999632297286533, 2 * torch.pi)
    exact, _ = aperiodic_scan(u.double(), scale, radians)
    torch.testing.assert_close(aperiodic_scan(u, scale, phases)[0].double(), exact, rtol=0, atol=3e-6)


def test_autocast_leaves_the_scan_in_its_own_dtype():
    u, scale, phase, _ = draw(2, 5, 3, "cpu")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h, final = aperiodic_scan(u, scale, phase)
    assert h.dtype == torch.float32
    assert final.dtype == torch.float32


@pytest.mark.parametrize("backend", BACKENDS)
def test_offsets_into_memory_are_64_bit(tmp_path, backend, device):
    # A sparse file stands for an input that spans more than 2^31 elements; only three pages of it exist.
    if device != "cpu":
        pytest.skip("a sparse file cannot be put on a GPU")
    stride = 2**30 + 8
    memory = torch.from_file(str(tmp_path / "sparse"), shared=True, size=2 * stride + 64)
    u = memory.as_strided((1, 3, 4), (0, stride, 1))
    u.copy_(torch.randn(1, 3, 4))
    _, scale, phase, _ = draw(1, 1, 4, "cpu")
    expected, _ = aperiodic_scan(u.contiguous(), scale, phase)
    torch.testing.assert_close(aperiodic_scan(u, scale, phase, backend=backend)[0], expected, **CLOSE)


class TestNewton:
    """``method="newton"`` gives the step-by-step values, by way of iteration or of falling back."""

    @pytest.fixture(autouse=True)
    def short_chunks(self, monkeypatch):
        monkeypatch.setattr(newton, "CHUNK", 32)  # the interpreter is slow

    @pytest.mark.parametrize("backend", NEWTON)
    @pytest.mark.parametrize("length", [1, 32, 33, 81])
    def test_it_equals_the_exact_scan(self, backend, length, device):
        u, scale, phase, state = draw(2, length, 5, device)
        expected, last = aperiodic_scan(u, scale, phase, state, backend=backend)
        h, final = aperiodic_scan(u, scale, phase, state, method="newton", backend=backend)
        torch.testing.assert_close(h, expected, rtol=0, atol=newton.TOLERANCE)
        torch.testing.assert_close(final, last, rtol=0, atol=newton.TOLERANCE)

    @pytest.mark.parametrize("backend", NEWTON)
    def test_chaotic_lanes_are_found_out_and_computed_exactly(self, backend, device):
        u, _, _, state = draw(1, 2 * newton.CHUNK, 32, device)
        u = u * 0.1
        scale = torch.full((32,), 3.0, device=device)
        phase = torch.linspace(-torch.pi, torch.pi, 32, device=device)
        certified = newton.certified_lanes(u, scale, phase, state)
        assert not certified.all()
        assert certified.any()
        expected, _ = aperiodic_scan(u, scale, phase, state, backend=backend)
        h, _ = aperiodic_scan(u, scale, phase, state, method="newton", backend=backend)
        torch.testing.assert_close(h, expected, rtol=0, atol=newton.TOLERANCE)

    def test_the_certificate_bounds_the_true_error(self, monkeypatch):
        # With no iterations the guesses are wrong: every lane that claims to be right must be.
        monkeypatch.setattr(newton, "ITERATIONS", 0)
        u, _, phase, state = draw(4, 2 * newton.CHUNK, 64, "cpu")
        scale = torch.linspace(0.0, 1.0, 64)
        h, certified = newton._iterate(u, scale, phase, state)
        exact, _ = aperiodic_scan(u, scale, phase, state)
        error = (h - exact).abs().amax(1)
        assert 0 < certified.float().mean() < 1
        assert error[certified].max() <= newton.TOLERANCE

    def test_its_gradient_is_the_exact_adjoint(self):
        u, scale, phase, _ = draw(1, 2 * newton.CHUNK + 3, 4, "cpu")
        u.requires_grad_()
        grads = [
            torch.autograd.grad(aperiodic_scan(u, scale, phase, method=method)[0].square().sum(), u)[0]
            for method in ("exact", "newton")
        ]
        torch.testing.assert_close(*grads)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(u=torch.zeros(2, 3)), r"u has shape \[2, 3\]; allowed is \[B, T, D\]"),
        (dict(u=torch.zeros(2, 3, 4, dtype=torch.int32)), "u has dtype int32; allowed are float32"),
        (dict(scale=torch.zeros(5)), r"scale has shape \[5\]; allowed is \[4\]"),
        (dict(phase=torch.zeros(3, 4)), r"phase has shape \[3, 4\]"),
        (dict(scale=torch.zeros(4, device="meta")), "scale is on meta; the main input is on cpu"),
        (dict(initial_state=torch.zeros(1, 4)), r"initial_state has shape \[1, 4\]; allowed is \[2, 4\]"),
        (dict(cu_seqlens=torch.tensor([0, 3])), "u has batch size 2; with cu_seqlens it must be 1"),
        (dict(cu_seqlens=torch.tensor([0.0, 3.0])), "cu_seqlens has dtype float32"),
        (dict(method="picard"), "method is 'picard'; allowed are exact, newton"),
        (dict(backend="cuda"), "backend is 'cuda'; allowed are auto, triton, native, torch, reference"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = dict(u=torch.zeros(2, 3, 4), scale=torch.zeros(4), phase=torch.zeros(4)) | change
    with pytest.raises(ValueError, match=message):
        aperiodic_scan(**arguments)


@pytest.mark.parametrize("offsets", [[0, 4], [1, 3], [0, 2, 1, 3]])
def test_offsets_out_of_order_are_refused(offsets):
    with pytest.raises(ValueError, match="it must go up from 0 to T = 3"):
        aperiodic_scan(torch.zeros(1, 3, 4), torch.zeros(4), torch.zeros(4), cu_seqlens=torch.tensor(offsets))
