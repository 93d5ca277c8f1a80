"""hebbian_scan and phase_hebbian_scan: against the float64 reference and loops of their own."""

import math

import pytest
import torch

from phasefield_kernels import hebbian_scan
from tests.machinery.comparison import assert_agrees_with_reference, relative_error
from tests.machinery.hebbian import EVERYWHERE, FORMS, OPS, draw, tolerances

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


@pytest.mark.parametrize("backend", ["native"])
@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_the_delta_rule_agrees_across_the_states_it_keeps(backend, is_complex, packed):
    # It keeps one in 256 steps: sequences that end with such a stretch, within one, and beside each other.
    offsets = {"cu_seqlens": torch.tensor([0, 3, 259, 259, 800])} if packed else {}
    length, sequences = (800, 4) if packed else (513, None)
    assert_agrees_with_reference(
        OPS[is_complex][0],
        draw(1 if packed else 2, length, 2, 5, 3, is_complex, sequences=sequences) | offsets,
        backend=backend,
        dtype=torch.float32,
        by_dtype=(),
        tolerance=tolerances(torch.float32, 5, 32),  # of decays that forget within a few steps
        rule="delta",
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


@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize("rule", ["hebb", "delta"])
def test_long_memories_and_their_decays_gradient_stay_exact(backend, rule):
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
        rule=rule,
    )


@pytest.mark.parametrize("backend", ["native"])
def test_what_the_delta_rule_does_not_overwrite_decays_as_it_should(backend):
    # Sixteen decays of about 1e-3: were those of whole chunks rounded alike every time, some of the
    # states would be off by 94 times 3e-8.
    tensors = draw(1, 1504, 16, 4, 4, False)
    tensors["log_decay"] = -torch.linspace(1e-3, 1.1e-3, 16)
    tensors["beta"] = torch.zeros(1, 1504, 16)
    _, final = hebbian_scan(**tensors, rule="delta", backend=backend)
    expected = (1504 * tensors["log_decay"].double()).exp()[:, None, None] * tensors["initial_state"].double()
    error = ((final - expected) / expected).abs().max()
    assert error < 2 * 2**-24 * math.sqrt(1504 / 16)  # a rounding a chunk, which add like square roots


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
