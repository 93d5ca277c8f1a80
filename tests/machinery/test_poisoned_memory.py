"""Fresh memory is poisoned in every test, so that an element which a kernel does not write shows."""

import pytest
import torch

pytest.importorskip("triton")

import triton
import triton.language as tl


@pytest.mark.parametrize(
    "fresh",
    [
        lambda dtype: torch.empty(3, 4, dtype=dtype),
        lambda dtype: torch.empty_like(torch.zeros(3, 4, dtype=dtype)),
        lambda dtype: torch.zeros(1, dtype=dtype).new_empty(3, 4),
    ],
    ids=["empty", "empty_like", "new_empty"],
)
def test_fresh_memory_is_poisoned(fresh):
    for dtype in (torch.float32, torch.bfloat16, torch.complex64):
        assert fresh(dtype).isnan().all()
    assert (fresh(torch.int64) == torch.iinfo(torch.int64).max).all()


@triton.jit
def copy(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(y_ptr + i, tl.load(x_ptr + i, mask=i < n), mask=i < n)


def test_what_a_kernel_leaves_out_shows(device):
    x = torch.ones(32, device=device)
    y = torch.empty_like(x)
    copy[(1,)](x, y, 31, BLOCK=32)
    assert y.isnan().tolist() == [False] * 31 + [True]


def test_empty_tensors_and_tracing_are_left_alone():
    assert torch.empty(0, 3).shape == (0, 3)
    assert torch.empty(3, device="meta").device.type == "meta"
