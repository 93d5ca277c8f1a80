"""linear_cross_entropy against full logits in float64, and what it keeps in memory."""

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from phasefield.layers import linear_cross_entropy
from phasefield.layers import linear_cross_entropy as function


@pytest.fixture(params=["one block", "blocks of three rows", "a row at a time"])
def blocks(request, monkeypatch):
    size = {"one block": 1 << 23, "blocks of three rows": 3 * 31, "a row at a time": 5}[request.param]
    monkeypatch.setitem(function.__globals__, "_BLOCK", size)


def draw(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 8, 12, generator=generator).to(dtype)
    weight = torch.randn(31, 12, generator=generator).to(dtype)
    return hidden, weight, torch.randint(31, (2, 8), generator=generator)


def oracle(hidden, weight, targets):
    return F.cross_entropy((hidden.double() @ weight.double().T).flatten(0, 1), targets.flatten())


# Sums of 12 products, 31 exponentials and 16 rows in float32; in bfloat16 logits of size 10 are rounded to
# 8 bits, and so are their gradients.
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 3e-6), (torch.bfloat16, 3e-2)], ids=str
)
def test_value_and_gradients_are_those_of_full_logits(dtype, tolerance, blocks):
    hidden, weight, targets = draw(dtype)
    inputs = [hidden.requires_grad_(), weight.requires_grad_()]
    loss = linear_cross_entropy(*inputs, targets)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    expected = oracle(*exact, targets)
    torch.testing.assert_close(loss.double(), expected, rtol=tolerance, atol=0)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    for mine, theirs in zip(
        torch.autograd.grad(3 * loss, inputs), torch.autograd.grad(3 * expected, exact), strict=True
    ):
        assert mine.dtype == dtype
        torch.testing.assert_close(mine.double(), theirs, rtol=0, atol=tolerance * theirs.abs().max().item())


def test_only_what_is_wanted_is_computed():
    hidden, weight, targets = draw()
    expected = oracle(hidden, weight, targets).float()
    torch.testing.assert_close(linear_cross_entropy(hidden, weight, targets), expected)
    loss = linear_cross_entropy(hidden.requires_grad_(), weight, targets)
    loss.backward(retain_graph=True)
    first = hidden.grad.clone()
    loss.backward()
    torch.testing.assert_close(hidden.grad, 2 * first)
    with torch.no_grad():
        assert not linear_cross_entropy(hidden, weight, targets).requires_grad


def test_large_logits_do_not_overflow():
    hidden, weight, targets = draw()
    loss = linear_cross_entropy(1e4 * hidden, weight, targets)
    torch.testing.assert_close(loss.double(), oracle(1e4 * hidden, weight, targets))


def test_autocast_multiplies_in_its_dtype_and_keeps_the_weights_gradient_whole():
    hidden, weight, targets = draw()
    weight.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, targets)
    (grad,) = torch.autograd.grad(loss, weight)
    assert loss.dtype == grad.dtype == torch.float32
    torch.testing.assert_close(loss.double(), oracle(hidden, weight.detach(), targets), rtol=3e-2, atol=0)


def test_it_compiles_in_one_graph():
    hidden, weight, targets = draw()
    inputs = [hidden.requires_grad_(), weight.requires_grad_()]
    expected = torch.autograd.grad(linear_cross_entropy(*inputs, targets), inputs)
    compiled = torch.compile(linear_cross_entropy, fullgraph=True, backend="aot_eager")
    for mine, theirs in zip(torch.autograd.grad(compiled(*inputs, targets), inputs), expected, strict=True):
        torch.testing.assert_close(mine, theirs)


MEASURE = """
import torch
from pathlib import Path
from torch.nn import functional as F
from phasefield.layers import linear_cross_entropy

hidden = torch.randn(4096, 16, requires_grad=True)
weight = torch.randn(20_000, 16, requires_grad=True)
targets = torch.randint(20_000, (4096,))
linear_cross_entropy(hidden[:8], weight, targets[:8]).backward()


def peak():
    # Not ru_maxrss, which a process takes over from the one that starts it.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


start = peak()
linear_cross_entropy(hidden, weight, targets).backward()
blocks = peak()
F.cross_entropy(hidden @ weight.T, targets).backward()
print(blocks - start, peak() - start)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has /proc")
def test_memory_is_that_of_a_block_and_not_of_all_logits():
    command = [sys.executable, "-c", MEASURE]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    blocks, full = map(float, output.split())
    # All logits are 4096 · 20,000 · 4 bytes = 312 MB, and their gradient as much again; a block is 32 MB.
    # Beside it: gradients of 1.3 MB, packed operands of the products, and the allocator's slack.
    assert blocks < 64
    assert full > 600


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(weight=torch.zeros(5, 3)), r"hidden has shape \[2, 4\], weight \[5, 3\] and targets \[2\]"),
        (dict(targets=torch.zeros(3, dtype=torch.int64)), r"targets \[3\]; allowed are"),
        (dict(targets=torch.zeros(2)), "targets has dtype float32; allowed is int64"),
        (dict(hidden=torch.zeros(0, 4), targets=torch.zeros(0, dtype=torch.int64)), "targets is empty"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = dict(
        hidden=torch.zeros(2, 4), weight=torch.zeros(5, 4), targets=torch.zeros(2, dtype=torch.int64)
    )
    with pytest.raises(ValueError, match=message):
        linear_cross_entropy(**(arguments | change))
