"""hebbian_scan and phase_hebbian_scan as operators: registration, compilation, layouts, bad arguments."""

import pytest
import torch

from phasefield_kernels import hebbian_scan, phase_hebbian_scan
from tests.machinery.comparison import relative_error
from tests.machinery.hebbian import BACKENDS, EVERYWHERE, FORMS, OPS, draw


# The native delta rule keeps states from 256 steps on.
@pytest.mark.parametrize(
    ("backend", "length", "is_complex", "rule"),
    [("torch", 35, *form) for form in FORMS]
    + [("native", 258, is_complex, "delta") for is_complex in (False, True)],
)
def test_the_operators_are_registered_as_torch_wants(backend, length, is_complex, rule):
    delta = rule == "delta"
    for decay, beta in (("token", True), (None, False)):
        tensors = draw(2, length, 1, 3, 2, is_complex, decay, beta)
        arguments = [None if t is None else t.requires_grad_() for t in tensors.values()]
        torch.library.opcheck(torch.ops.phasefield.hebbian_scan.default, (*arguments, None, delta, backend))
        arguments = [None if t is None else t.detach() for t in arguments]
        y, final, kept = torch.ops.phasefield.hebbian_scan(*arguments, None, delta, backend)
        torch.library.opcheck(
            torch.ops.phasefield.hebbian_scan_backward.default,
            (y, final, kept, *arguments, None, delta, backend),
        )
        token = [None if t is None else t[:, 0].contiguous() for t in arguments[:-1]]
        torch.library.opcheck(
            torch.ops.phasefield.hebbian_scan_step_.default, (*token, arguments[-1], delta, backend)
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


@pytest.mark.parametrize("backend", BACKENDS)
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

    for rule in ("delta",) if backend == "triton" else ("hebb", "delta"):
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


@pytest.mark.parametrize(
    ("backend", "is_complex", "rule"), [case for case in EVERYWHERE if case[0] != "triton"]
)
def test_a_head_that_overflows_spoils_no_other(backend, is_complex, rule):
    def results(value):
        tensors = draw(1, 40, 3, 5, 3, is_complex)
        tensors["v"][0, 7, 0] = value
        inputs = [t.requires_grad_() for t in tensors.values()]
        y, final = OPS[is_complex][0](**tensors, rule=rule, backend=backend)
        *grads, grad_state = torch.autograd.grad(y.square().sum() + final.square().sum(), inputs)
        return [t[:, :, 1:] for t in (y, *grads)] + [final[:, 1:], grad_state[:, 1:]]

    for spoilt, whole in zip(results(torch.inf), results(1.0), strict=True):
        assert torch.equal(spoilt, whole)


@pytest.mark.parametrize(("backend", "rule"), [(b, r) for b, is_complex, r in EVERYWHERE if is_complex])
def test_the_same_inputs_give_the_same_bits(backend, rule, device):
    tensors = {name: t.to(device).requires_grad_() for name, t in draw(1, 20, 1, 9, 8, True).items()}

    def once():
        y, final = phase_hebbian_scan(**tensors, rule=rule, backend=backend)
        return (y, final, *torch.autograd.grad(y.square().sum() + final.sum(), list(tensors.values())))

    for one, other in zip(once(), once(), strict=True):
        assert torch.equal(one, other)


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
