"""hebbian_scan and phase_hebbian_scan: against the float64 reference, loops of their own, and as a memory."""

import itertools
import math

import pytest
import torch

from phasefield_kernels import (
    hebbian_scan,
    hebbian_scan_step,
    hebbian_scan_step_,
    phase_hebbian_scan,
    phase_hebbian_scan_step,
    phase_hebbian_scan_step_,
)
from tests.machinery.comparison import assert_agrees_with_reference, relative_error

BACKENDS = ("torch", "native", "triton")
OPS = {
    False: (hebbian_scan, hebbian_scan_step, hebbian_scan_step_),
    True: (phase_hebbian_scan, phase_hebbian_scan_step, phase_hebbian_scan_step_),
}
FORMS = list(itertools.product((False, True), ("hebb", "delta")))
EVERYWHERE = [(backend, *form) for backend in BACKENDS for form in FORMS]
ROUNDING = {torch.float32: 2**-24, torch.bfloat16: 2**-9, torch.float16: 2**-12}


def draw(batch, length, heads, columns, rows, is_complex, decay="token", beta=True, sequences=None, seed=0):
    """Arguments by name, in the op's order without the rule; keys of length 1."""
    generator = torch.Generator().manual_seed(seed)
    pair = (2,) if is_complex else ()

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    def uniform(*shape):
        return torch.rand(*shape, generator=generator)

    k = random(batch, length, heads, columns, *pair)
    k = k / k.flatten(3).norm(dim=-1)[(..., *(None,) * (1 + is_complex))].clamp(min=1e-6)
    return {
        "q": random(batch, length, heads, columns, *pair),
        "k": k,
        "v": random(batch, length, heads, rows, *pair),
        "log_decay": {
            None: None,
            "head": -0.2 * uniform(heads),
            "token": -0.2 * uniform(batch, length, heads),
        }[decay],
        "beta": uniform(batch, length, heads) if beta else None,
        "initial_state": random(sequences or batch, heads, rows, columns, *pair),
    }


def at(tensors, piece):
    """The arguments of some time steps, without the state."""
    tokens = {
        name: t if t is None or t.ndim < 3 else t[:, piece]
        for name, t in tensors.items()
        if name != "initial_state"
    }
    return tokens


def tolerances(dtype, columns, length):
    """Allowed errors, relative to the largest value.

    In float32 a sum over K products and T steps: 4 roundings each, adding like square roots. With 16-bit
    inputs every tile that is multiplied (states, scores, what is written) is rounded to their dtype, about
    four one after the other in the forward and twice as many in the backward; 4 covers the largest of
    thousands. The torch form multiplies in float32 and rounds only what it returns.
    """
    single = 16 * 2**-24 * math.sqrt(columns + length)
    half = ROUNDING[dtype] if dtype != torch.float32 else 0.0
    return {"out0": single + 16 * half, "out1": single + 16 * half, "default": 4 * single + 32 * half}


# (batch, length, heads, K, V): chunks of every configuration and a rest; K and V apart, odd, and more than a
# tile; one step.
CASES = [
    (torch.float32, (1, 35, 2, 37, 21)),
    (torch.bfloat16, (1, 75, 1, 16, 33)),
    (torch.float16, (2, 40, 1, 37, 5)),
    (torch.float32, (2, 1, 1, 5, 7)),
]


@pytest.mark.parametrize(("backend", "is_complex", "rule"), EVERYWHERE)
@pytest.mark.parametrize(("dtype", "shape"), CASES, ids=str)
def test_it_agrees_with_its_definition(backend, is_complex, rule, dtype, shape, device):
    assert_agrees_with_reference(
        OPS[is_complex][0],
        draw(*shape, is_complex),
        backend=backend,
        dtype=dtype,
        by_dtype=("q", "k", "v"),
        tolerance=tolerances(dtype, shape[3], shape[1]),
        device=device,
        rule=rule,
    )


@pytest.mark.parametrize(("backend", "is_complex", "rule"), EVERYWHERE)
@pytest.mark.parametrize(("decay", "beta"), [(None, False), ("head", True)])
def test_every_form_of_decay_and_strength_agrees(backend, is_complex, rule, decay, beta, device):
    assert_agrees_with_reference(
        OPS[is_complex][0],
        draw(1, 19, 1, 8, 6, is_complex, decay, beta),
        backend=backend,
        dtype=torch.float32,
        by_dtype=(),
        tolerance=tolerances(torch.float32, 8, 19),
        device=device,
        rule=rule,
    )


@pytest.mark.parametrize(("backend", "is_complex", "rule"), EVERYWHERE)
def test_packed_sequences_agree(backend, is_complex, rule, device):
    tensors = draw(1, 55, 1, 8, 6, is_complex, decay="head", sequences=5)
    assert_agrees_with_reference(
        OPS[is_complex][0],
        tensors | {"cu_seqlens": torch.tensor([0, 0, 35, 35, 54, 55], dtype=torch.int32)},
        backend=backend,
        dtype=torch.float32,
        by_dtype=(),
        tolerance=tolerances(torch.float32, 8, 35),
        device=device,
        rule=rule,
    )


@pytest.mark.parametrize(("is_complex", "rule"), FORMS)
def test_gradients_are_right_in_float64(is_complex, rule):
    # 35 steps are a chunk and a rest. A projection of each output, so that few numbers are differentiated.
    for decay, beta in ((None, False), ("head", True), ("token", True)):
        tensors = draw(1, 35, 1, 2, 1, is_complex, decay, beta)
        # A key's length may grow by gradcheck's steps.
        given = {name: t.double().requires_grad_() for name, t in tensors.items() if t is not None}

        def function(*inputs, names=tuple(given)):
            named = dict(zip(names, inputs, strict=True))
            return OPS[is_complex][0](**named, rule=rule, backend="torch")

        assert torch.autograd.gradcheck(function, tuple(given.values()), fast_mode=True)


@pytest.mark.parametrize("is_complex", [False, True])
def test_second_path_a_naive_attention_form_gives_the_same(is_complex):
    # As flash-linear-attention's naive forms have it: all pairs at once, decays by differences of sums.
    tensors = draw(2, 50, 3, 8, 6, is_complex)
    q, k, v, log_decay, beta, _ = (t.double() for t in tensors.values())
    y, final = OPS[is_complex][0](**tensors | {"initial_state": None})
    q, k, v = (torch.view_as_complex(t.contiguous()) if is_complex else t for t in (q, k, v))
    sums = log_decay.cumsum(1)
    weights = (sums.unsqueeze(2) - sums.unsqueeze(1)).exp().permute(0, 3, 1, 2).tril()
    scores = torch.einsum("bihk,bjhk->bhij", q, k.conj()) * weights * beta.permute(0, 2, 1).unsqueeze(2)
    expected = torch.einsum("bhij,bjhv->bihv", scores, v)
    late = (sums[:, -1:] - sums).exp() * beta
    state = torch.einsum("bth,bthv,bthk->bhvk", late.to(v.dtype), v, k.conj())
    for actual, want in ((y, expected), (final, state)):
        assert relative_error(actual, torch.view_as_real(want) if is_complex else want) < 2e-6


@pytest.mark.parametrize("is_complex", [False, True])
def test_second_path_a_naive_delta_rule_gives_the_same(is_complex):
    # As DeltaNet's recurrence is written: the state times a Householder-like matrix, then the new pair.
    tensors = draw(2, 50, 3, 8, 6, is_complex)
    q, k, v, log_decay, beta, S = (t.double() for t in tensors.values())
    y, final = OPS[is_complex][0](**tensors, rule="delta")
    q, k, v, S = (torch.view_as_complex(t.contiguous()) if is_complex else t for t in (q, k, v, S))
    outputs = []
    for t in range(50):
        outer = torch.einsum("bhi,bhj->bhij", k[:, t], k[:, t].conj())
        kept = torch.eye(8) - beta[:, t, :, None, None] * outer
        S = log_decay[:, t, :, None, None].exp() * S @ kept.to(S.dtype)
        S = S + torch.einsum("bh,bhv,bhk->bhvk", beta[:, t].to(v.dtype), v[:, t], k[:, t].conj())
        outputs.append(torch.einsum("bhvk,bhk->bhv", S, q[:, t]))
    for actual, want in ((y, torch.stack(outputs, 1)), (final, S)):
        assert relative_error(actual, torch.view_as_real(want) if is_complex else want) < 2e-6


def lone(numbers):
    """A sequence of complex vectors ``[T, D]`` as ``[1, T, 1, D, 2]`` in float32."""
    return torch.view_as_real(numbers)[None, :, None].float()


class TestAssociativeRecall:
    """64 pairs in one memory of 64 · 64 complex numbers."""

    def pairs(self, orthogonal):
        generator = torch.Generator().manual_seed(11)
        keys = torch.randn(64, 64, dtype=torch.complex128, generator=generator)
        keys = torch.linalg.qr(keys)[0] if orthogonal else keys / keys.norm(dim=-1, keepdim=True)
        return keys, torch.exp(2j * math.pi * torch.rand(64, 64, dtype=torch.float64, generator=generator))

    def recalled(self, keys, values, rule, repeats=1):
        """For each key the index of the nearest value, and what is read, after all pairs were stored."""
        k, v = (lone(t.repeat(repeats, 1)) for t in (keys, values))
        _, memory = phase_hebbian_scan(k, k, v, rule=rule)
        read, _ = phase_hebbian_scan(
            lone(keys), torch.zeros_like(lone(keys)), lone(values), None, None, rule, memory
        )
        read = torch.view_as_complex(read[0, :, 0].double().contiguous())
        return (read @ values.mH).real.argmax(1), read

    def test_orthogonal_keys_bring_every_value_back(self):
        keys, values = self.pairs(orthogonal=True)
        for rule in ("hebb", "delta"):
            index, read = self.recalled(keys, values, rule)
            assert torch.equal(index, torch.arange(64))
            assert (read - values).abs().max() < 1e-4

    def test_the_delta_rule_brings_every_random_pair_back(self):
        keys, values = self.pairs(orthogonal=False)
        index, _ = self.recalled(keys, values, "delta")
        assert torch.equal(index, torch.arange(64))
        # Stored again and again, it converges to the values themselves, as Kaczmarz's method does.
        error = [(self.recalled(keys, values, "delta", n)[1] - values).abs().mean().item() for n in (1, 20)]
        assert error[1] < 0.5 * error[0]

    def test_the_delta_rule_overwrites_where_hebb_blurs(self):
        keys, values = self.pairs(orthogonal=True)
        k, v = lone(keys[:2]), lone(values[:2])
        again = lone(values[2:3])
        k, v = torch.cat([k, k[:, :1]], 1), torch.cat([v, again], 1)
        for rule, expected in (("delta", again), ("hebb", again + v[:, :1])):
            y, memory = phase_hebbian_scan(k, k, v, rule=rule)
            torch.testing.assert_close(y[:, 2:], expected, rtol=0, atol=1e-5)
            other, _ = phase_hebbian_scan(k[:, 1:2], 0 * k[:, 1:2], v[:, :1], initial_state=memory)
            torch.testing.assert_close(other, v[:, 1:2], rtol=0, atol=1e-5)

    def test_a_query_of_another_phase_reads_the_value_turned(self):
        keys, values = self.pairs(orthogonal=True)
        _, memory = phase_hebbian_scan(*(lone(t[:1]) for t in (keys, keys, values)))
        turn = torch.exp(torch.tensor(0.7j, dtype=torch.complex128))
        q = lone(turn * keys[:1])
        y, _ = phase_hebbian_scan(q, torch.zeros_like(q), q, initial_state=memory)
        torch.testing.assert_close(y, lone(turn * values[:1]), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("backend", "is_complex", "rule"), EVERYWHERE)
def test_pieces_packed_sequences_and_steps_equal_the_whole(backend, is_complex, rule, device):
    op, step, step_ = OPS[is_complex]
    lengths = [0, 33, 1, 36] if backend == "torch" else [0, 17, 1, 20]
    tensors = {name: t.to(device) for name, t in draw(1, sum(lengths), 1, 6, 5, is_complex).items()}
    start = state = tensors["initial_state"]
    whole, final = op(**tensors, rule=rule, backend=backend)
    begin = 0
    for length in lengths:
        y, state = op(
            **at(tensors, slice(begin, begin + length)), rule=rule, initial_state=state, backend=backend
        )
        assert relative_error(y, whole[:, begin : begin + length].cpu()) < 1e-6  # of values near the largest
        begin += length
    assert relative_error(state, final.cpu()) < 1e-6

    offsets = torch.tensor([0, *itertools.accumulate(lengths)], device=device)
    states = torch.randn(4, *start.shape[1:], device=device)
    y, finals = op(**tensors | {"initial_state": states}, rule=rule, cu_seqlens=offsets, backend=backend)
    for s in range(4):
        piece = slice(int(offsets[s]), int(offsets[s + 1]))
        alone, last = op(**at(tensors, piece), rule=rule, initial_state=states[s : s + 1], backend=backend)
        assert relative_error(y[:, piece], alone.cpu()) < 1e-6
        assert relative_error(finals[s : s + 1], last.cpu()) < 1e-6

    state, in_place = start, start.clone()
    for t in range(2):
        token = {name: None if x is None else x[:, t] for name, x in at(tensors, slice(None)).items()}
        y, state = step(**token, rule=rule, state=state, backend=backend)
        assert relative_error(y, whole[:, t].cpu()) < 1e-6
        y = step_(**token, rule=rule, state=in_place, backend=backend)
        assert relative_error(y, whole[:, t].cpu()) < 1e-6
        assert relative_error(in_place, state.cpu()) < 1e-6


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_long_memories_and_their_decays_gradient_stay_exact(backend):
    # A decay of 1e-3 a step remembers a thousand steps. Were it rounded the same way at each of them, they
    # would be off by up to 3e-8 · 1000; and a sum of the decay's gradient over all steps by more than that.
    shape = (1, 1500, 1, 9, 5)
    tensors = draw(*shape, False) | {"log_decay": torch.tensor([-1e-3]), "initial_state": None}
    assert_agrees_with_reference(
        hebbian_scan,
        tensors,
        backend=backend,
        dtype=torch.float32,
        by_dtype=(),
        tolerance={"out0": 2e-6, "out1": 2e-6, "default": 4e-6},  # 8e-7; rounded alike every time, 5e-6
        device="cpu",
        rule="hebb",
    )


@pytest.mark.parametrize("backend", ["native"])
@pytest.mark.parametrize(("is_complex", "rule"), FORMS)
@pytest.mark.parametrize(
    ("sizes", "decay", "dtype"),
    [
        ((2, 3, 5, 7), "token", torch.float32),
        ((1, 2, 64, 64), "head", torch.float32),
        ((1, 2, 256, 3), None, torch.float32),
        ((2, 2, 33, 1), "token", torch.bfloat16),
        ((1, 1, 1, 1), None, torch.float32),
    ],
    ids=str,
)
def test_a_native_step_is_that_of_the_definition(backend, is_complex, rule, sizes, decay, dtype):
    batch, heads, columns, rows = sizes
    tensors = draw(batch, 3, heads, columns, rows, is_complex, decay, decay is not None)
    tensors |= {name: tensors[name].to(dtype) for name in ("q", "k", "v")}
    exact = {name: None if t is None else t.double() for name, t in tensors.items()}
    op, _, step_ = OPS[is_complex]
    wanted, final = op(**exact, rule=rule, backend="reference")
    state = tensors.pop("initial_state").clone()
    outputs = []
    for t in range(3):
        token = {name: x if x is None or x.ndim == 1 else x[:, t] for name, x in tensors.items()}
        outputs.append(step_(**token, rule=rule, state=state, backend=backend))
    # Three sums over K numbers, whose roundings add like square roots; then one to the output's dtype.
    allowed = 4 * 2**-24 * (3 * columns * (1 + is_complex)) ** 0.5
    assert relative_error(state, final) < allowed
    rounding = 0 if dtype == torch.float32 else 2**-8
    assert relative_error(torch.stack(outputs, dim=1), wanted) < allowed + rounding


@pytest.mark.parametrize("rule", ["hebb", "delta"])
@pytest.mark.parametrize("decay", [None, "head", "token"])
def test_several_memories_are_read_as_one(rule, decay):
    tensors = draw(2, 40, 3, 6, 5, True, decay)
    generator = torch.Generator().manual_seed(3)
    shape = {None: None, "head": (3, 4), "token": (2, 40, 3, 4)}[decay]
    log_decay = None if shape is None else -torch.rand(*shape, generator=generator)
    mix = torch.randn(2, 40, 3, 4, 2, generator=generator)
    state = torch.randn(2, 3, 4, 5, 6, 2, generator=generator)
    given = tensors | {"log_decay": log_decay, "initial_state": state}
    inputs = [t.requires_grad_() for t in (*given.values(), mix) if t is not None]
    y, final = phase_hebbian_scan(**given, rule=rule, n_states=4, mix=mix)
    expected, finals = 0, []
    for s in range(4):
        own = None if log_decay is None else log_decay[..., s]
        own_y, last = phase_hebbian_scan(
            **given | {"log_decay": own, "initial_state": state[:, :, s]}, rule=rule, backend="reference"
        )
        weight = torch.view_as_complex(mix[:, :, :, s].contiguous()).unsqueeze(-1)
        expected = expected + torch.view_as_real(weight * torch.view_as_complex(own_y))
        finals.append(last)
    finals = torch.stack(finals, 2)
    assert relative_error(y, expected) < 2e-6
    assert relative_error(final, finals) < 2e-6
    cotangents = torch.randn_like(y), torch.randn_like(final)
    grads = torch.autograd.grad((y, final), inputs, cotangents)
    for grad, want in zip(grads, torch.autograd.grad((expected, finals), inputs, cotangents), strict=True):
        assert (
            relative_error(grad, want) < 1e-5
        )  # sums over 4 memories, 40 steps: 4 · 2^-24 · √(4 · 40 · 6) · 8

    with torch.no_grad():
        in_place = state.detach().clone()
        for t in range(3):
            token = {
                name: x if x is None or (name == "log_decay" and decay == "head") else x[:, t]
                for name, x in at(given, slice(None)).items()
            }
            many = dict(rule=rule, n_states=4, mix=mix[:, t])
            new, state = phase_hebbian_scan_step(**token, **many, state=state)
            assert relative_error(new, y[:, t]) < 2e-6
            assert relative_error(phase_hebbian_scan_step_(**token, **many, state=in_place), y[:, t]) < 2e-6
            assert relative_error(in_place, state) < 2e-6


@pytest.mark.parametrize(("is_complex", "rule"), FORMS)
def test_the_operators_are_registered_as_torch_wants(is_complex, rule):
    delta = rule == "delta"
    for decay, beta in (("token", True), (None, False)):
        tensors = draw(2, 35, 1, 3, 2, is_complex, decay, beta)
        arguments = [None if t is None else t.requires_grad_() for t in tensors.values()]
        torch.library.opcheck(torch.ops.phasefield.hebbian_scan.default, (*arguments, None, delta, "torch"))
        arguments = [None if t is None else t.detach() for t in arguments]
        y, final, starts = torch.ops.phasefield.hebbian_scan(*arguments, None, delta, "torch")
        torch.library.opcheck(
            torch.ops.phasefield.hebbian_scan_backward.default,
            (y, final, starts, *arguments, None, delta, "torch"),
        )
        token = [None if t is None else t[:, 0].contiguous() for t in arguments[:-1]]
        torch.library.opcheck(
            torch.ops.phasefield.hebbian_scan_step_.default, (*token, arguments[-1], delta, "torch")
        )


@pytest.mark.parametrize(("is_complex", "rule"), FORMS)
def test_it_compiles_in_one_graph_with_its_backward_and_exports(is_complex, rule):
    tensors = draw(2, 35, 2, 4, 3, is_complex)
    q = tensors.pop("q").requires_grad_()

    def function(q):
        y, final = OPS[is_complex][0](q * 2, **tensors, rule=rule)
        return y.square().sum() + final.sum()

    (expected,) = torch.autograd.grad(function(q), q)
    (actual,) = torch.autograd.grad(torch.compile(function, fullgraph=True, backend="aot_eager")(q), q)
    torch.testing.assert_close(actual, expected)

    class Module(torch.nn.Module):
        def forward(self, q):
            return function(q)

    q = q.detach()
    torch.testing.assert_close(torch.export.export(Module(), (q,)).module()(q), function(q))


def test_several_memories_compile_in_one_graph():
    tensors = draw(1, 9, 2, 4, 3, True)
    given = tensors | {"log_decay": None, "initial_state": None}
    mix = torch.randn(1, 9, 2, 3, 2, requires_grad=True)

    def function(mix):
        return phase_hebbian_scan(**given, n_states=3, mix=mix)[0].square().sum()

    (expected,) = torch.autograd.grad(function(mix), mix)
    (actual,) = torch.autograd.grad(torch.compile(function, fullgraph=True, backend="aot_eager")(mix), mix)
    torch.testing.assert_close(actual, expected)


def test_autocast_leaves_the_products_of_the_torch_form_in_float32():
    tensors = draw(1, 40, 1, 16, 16, False)
    expected = hebbian_scan(**tensors)
    with torch.autocast("cpu", torch.bfloat16):
        actual = hebbian_scan(**tensors)
    for have, want in zip(actual, expected, strict=True):
        assert torch.equal(have, want)


@pytest.mark.parametrize(
    ("backend", "is_complex", "rule"), [*EVERYWHERE, *(("reference", *form) for form in FORMS)]
)
@pytest.mark.parametrize("shape", [(2, 0, 2, 3, 5), (0, 4, 2, 3, 5)])
def test_empty_inputs_give_empty_outputs(backend, is_complex, rule, shape, device):
    tensors = {name: t.to(device).requires_grad_() for name, t in draw(*shape, is_complex).items()}
    y, final = OPS[is_complex][0](**tensors, rule=rule, backend=backend)
    assert y.shape == tensors["v"].shape
    assert torch.equal(final, tensors["initial_state"])
    assert final.data_ptr() != tensors["initial_state"].data_ptr() or final.numel() == 0
    grads = torch.autograd.grad(
        y.sum() + final.sum(), list(tensors.values()), allow_unused=backend == "reference"
    )
    for tensor, grad in zip(tensors.values(), grads, strict=True):
        assert grad is None or grad.shape == tensor.shape
    assert (grads[-1] == 1).all()


@pytest.mark.parametrize("backend", [*BACKENDS, "native"])
@pytest.mark.parametrize("is_complex", [False, True])
def test_strides_do_not_matter(backend, is_complex, device):
    tensors = {name: t.to(device) for name, t in draw(1, 9, 2, 17, 9, is_complex).items()}
    state = tensors.pop("initial_state")
    op = OPS[is_complex][0]

    def transposed(t):
        return t.transpose(1, 2).contiguous().transpose(1, 2)

    def columns_apart(t):
        return torch.stack([t, t], dim=-1)[..., 0]

    def odd_offset(t):
        return torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape)

    for rule in {"torch": ("hebb", "delta"), "triton": ("delta",), "native": ("hebb",)}[backend]:
        expected, final = op(**tensors, rule=rule, initial_state=state, backend=backend)
        for view in (transposed, columns_apart, odd_offset):
            viewed = {name: view(t) for name, t in tensors.items()}
            y, last = op(**viewed, rule=rule, initial_state=view(state), backend=backend)
            assert relative_error(y, expected.cpu()) < 1e-6
            assert relative_error(last, final.cpu()) < 1e-6
    repeated = {name: t[:, :1, :1].expand_as(t).requires_grad_() for name, t in tensors.items()}
    plain = {name: t.detach().contiguous().requires_grad_() for name, t in repeated.items()}
    for inputs in (repeated, plain):
        y, _ = op(**inputs, backend=backend)
        inputs["grads"] = torch.autograd.grad(y.sum(), list(inputs.values()))
    for grad, want in zip(repeated["grads"], plain["grads"], strict=True):
        assert relative_error(grad, want.cpu()) < 1e-6


@pytest.mark.parametrize(("backend", "rule"), [(b, r) for b, is_complex, r in EVERYWHERE if is_complex])
def test_the_same_inputs_give_the_same_bits(backend, rule, device):
    tensors = {name: t.to(device).requires_grad_() for name, t in draw(1, 20, 1, 9, 8, True).items()}

    def once():
        y, final = phase_hebbian_scan(**tensors, rule=rule, backend=backend)
        return (y, final, *torch.autograd.grad(y.square().sum() + final.sum(), list(tensors.values())))

    for one, other in zip(once(), once(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("backend", "is_complex", "rule"), EVERYWHERE)
def test_nothing_overflows_for_any_decay_and_what_comes_after_stays_exact(backend, is_complex, rule, device):
    # Sums of logarithms that reach -1e4 would leave later differences an accuracy of 1e-3.
    tensors = draw(1, 35, 1, 8, 6, is_complex)
    tensors["log_decay"][0, [3, 4, 9, 20], 0] = torch.tensor([-torch.inf, -1e4, -300.0, -1e30])
    assert_agrees_with_reference(
        OPS[is_complex][0],
        tensors,
        backend=backend,
        dtype=torch.float32,
        by_dtype=(),
        tolerance=tolerances(torch.float32, 8, 40),
        device=device,
        rule=rule,
    )


@pytest.mark.parametrize("rule", ["hebb", "delta"])
@pytest.mark.parametrize("is_complex", [False, True])
def test_the_step_in_place_of_no_sequences_gives_no_outputs(is_complex, rule):
    tensors = draw(0, 1, 3, 4, 5, is_complex)
    state = tensors["initial_state"]
    token = {name: t[:, 0] for name, t in at(tensors, slice(None)).items()}
    y = OPS[is_complex][2](**token, rule=rule, state=state)
    assert y.shape == token["v"].shape


def test_the_step_in_place_refuses_to_drop_a_gradient():
    for is_complex in (False, True):
        tensors = draw(2, 1, 3, 4, 5, is_complex)
        state = tensors["initial_state"]
        token = {name: t[:, 0] for name, t in at(tensors, slice(None)).items()}
        token["q"].requires_grad_()
        with pytest.raises(RuntimeError, match="hebbian_scan_step_ changes its state in place"):
            OPS[is_complex][2](**token, rule="hebb", state=state)


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(q=torch.zeros(2, 3, 4)), r"q has shape \[2, 3, 4\]; allowed is \[B, T, H, K\]"),
        (
            dict(q=torch.zeros(2, 3, 4, 5, dtype=torch.complex64)),
            "q has dtype complex64; allowed are float32",
        ),
        (dict(k=torch.zeros(2, 3, 4, 6)), r"k has shape \[2, 3, 4, 6\]; allowed is \[2, 3, 4, 5\]"),
        (dict(k=torch.zeros(2, 3, 4, 5).half()), "k has dtype float16; allowed are float32"),
        (dict(v=torch.zeros(2, 3, 3, 6)), r"v has shape \[2, 3, 3, 6\]; allowed is \[2, 3, 4, V\]"),
        (dict(v=torch.zeros(2, 3, 4, 300)), "V is 300; allowed are head sizes from 1 to 256"),
        (dict(log_decay=torch.zeros(3)), r"log_decay has shape \[3\]; allowed is \[4\] or \[2, 3, 4\]"),
        (dict(log_decay=torch.ones(4)), "log_decay reaches 1; allowed are logarithms"),
        (dict(beta=torch.zeros(4)), r"beta has shape \[4\]; allowed is \[2, 3, 4\]"),
        (dict(beta=torch.full((2, 3, 4), 1.5), rule="delta"), r"beta reaches 1.5; allowed is \[0, 1\]"),
        (dict(beta=torch.full((2, 3, 4), -0.5), rule="delta"), r"beta reaches -0.5; allowed is \[0, 1\]"),
        (
            dict(k=torch.ones(2, 3, 4, 5), rule="delta"),
            "k has a vector of length 2.23607; allowed are lengths",
        ),
        (dict(rule="oja"), "rule is 'oja'; allowed are hebb, delta"),
        (
            dict(initial_state=torch.zeros(2, 4, 5, 6)),
            r"initial_state has shape .*; allowed is \[2, 4, 6, 5\]",
        ),
        (dict(cu_seqlens=torch.tensor([0, 3])), "q has batch size 2; with cu_seqlens it must be 1"),
    ],
)
def test_bad_arguments_are_named(backend, change, message):
    arguments = dict(q=torch.zeros(2, 3, 4, 5), k=torch.zeros(2, 3, 4, 5), v=torch.zeros(2, 3, 4, 6)) | change
    with pytest.raises(ValueError, match=message):
        hebbian_scan(**arguments, backend=backend)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(n_states=3), r"mix is None; with n_states = 3 it is \[..., H, 3, 2\]"),
        (dict(mix=torch.zeros(2, 3, 4, 3, 2)), "mix is given without n_states"),
        (dict(n_states=0, mix=torch.zeros(2, 3, 4, 0, 2)), "n_states is 0; allowed are 1 and more"),
        (dict(n_states=2, mix=torch.zeros(2, 3, 4, 3, 2)), r"mix has shape .*; allowed is \[2, 3, 4, 2, 2\]"),
        (dict(q=torch.zeros(2, 3, 4, 5)), r"q has shape \[2, 3, 4, 5\]; allowed is \[B, T, H, K, 2\]"),
    ],
)
def test_bad_arguments_of_several_memories_are_named(change, message):
    q = torch.zeros(2, 3, 4, 5, 2)
    with pytest.raises(ValueError, match=message):
        phase_hebbian_scan(**dict(q=q, k=q, v=q) | change)
