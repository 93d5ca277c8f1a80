"""Wasteful and wrong kernels are caught; good ones are not."""

import os

import pytest
import torch

pytest.importorskip("triton")

import triton
import triton.language as tl
from triton.runtime.errors import InterpreterError

from benchmarks.traffic_counter import count_traffic

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1", reason="traffic is counted in Triton's interpreter"
)


@triton.jit
def double(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + i, 2 * tl.load(x_ptr + i, mask=i < n), mask=i < n)


@triton.jit
def double_columns(x_ptr, y_ptr, rows, columns, BLOCK: tl.constexpr):
    i = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)) * columns + tl.program_id(0)
    inside = i < rows * columns
    tl.store(y_ptr + i, 2 * tl.load(x_ptr + i, mask=inside), mask=inside)


def test_a_kernel_that_moves_each_byte_once_is_counted_so():
    x, y = torch.randn(1000), torch.empty(1000)
    with count_traffic() as traffic:
        double[(4,)](x, y, 1000, BLOCK=256)
    assert traffic.requested == traffic.unique == traffic.sectors == 8000
    assert traffic.launches == 1
    assert traffic.by_tensor == {"double x_ptr": [4000, 0], "double y_ptr": [0, 4000]}
    assert traffic.races == []
    torch.testing.assert_close(y, 2 * x)


def test_a_second_pass_is_counted():
    x, between, y = torch.randn(1000), torch.empty(1000), torch.empty(1000)
    with count_traffic() as traffic:
        double[(4,)](x, between, 1000, BLOCK=256)
        double[(4,)](between, y, 1000, BLOCK=256)
    assert traffic.unique == 16000
    assert traffic.launches == 2


def test_a_byte_that_every_program_asks_for_is_requested_often_and_unique_once():
    @triton.jit
    def add_scalar(x_ptr, scalar_ptr, BLOCK: tl.constexpr):
        i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        tl.store(x_ptr + i, tl.load(x_ptr + i) + tl.load(scalar_ptr))

    with count_traffic() as traffic:
        add_scalar[(8,)](torch.zeros(256), torch.ones(1), BLOCK=32)
    assert traffic.requested == 2 * 1024 + 8 * 4
    assert traffic.unique == 2 * 1024 + 4
    assert traffic.unique_by_tensor == {"add_scalar x_ptr": [1024, 1024], "add_scalar scalar_ptr": [4, 0]}
    (launch,) = traffic.by_launch
    assert launch.tensors == {"x_ptr": (1024, 1024, 1024), "scalar_ptr": (32, 0, 4)}


def test_a_walk_down_a_column_wastes_sectors():
    x, y = torch.randn(64, 32), torch.empty(64, 32)
    with count_traffic() as traffic:
        double_columns[(32, 1)](x, y, 64, 32, BLOCK=64)
    assert traffic.sectors == 8 * traffic.requested
    torch.testing.assert_close(y, 2 * x)


@pytest.mark.parametrize(("shift", "place"), [(1, "0 bytes from the end"), (-1, "4 bytes from the start")])
def test_an_access_outside_the_tensors_is_an_error(shift, place):
    @triton.jit
    def copy_shifted(x_ptr, y_ptr, SHIFT: tl.constexpr, BLOCK: tl.constexpr):
        i = tl.arange(0, BLOCK)
        tl.store(y_ptr + i, tl.load(x_ptr + i + SHIFT))

    storage = torch.zeros(256)
    message = (
        f"copy_shifted: load of 1 elements outside every tensor of the launch, in program 0.*{place} of x_ptr"
    )
    with pytest.raises(InterpreterError, match=message), count_traffic():
        copy_shifted[(1,)](storage[64:128], storage[192:], SHIFT=shift, BLOCK=64)


def test_a_mask_that_is_one_too_long_is_an_error():
    with pytest.raises(InterpreterError, match="double: load of 1 elements outside"), count_traffic():
        double[(1,)](torch.zeros(100), torch.zeros(128), 101, BLOCK=128)


def test_two_programs_that_store_to_one_address_race():
    @triton.jit
    def overwrite(x_ptr, BLOCK: tl.constexpr):
        tl.store(x_ptr + tl.arange(0, BLOCK), tl.program_id(0) + tl.zeros((BLOCK,), tl.float32))

    with count_traffic() as traffic:
        overwrite[(3,)](torch.zeros(32), BLOCK=32)
    assert traffic.races == ["overwrite: store and store of 32 addresses, e.g. by programs 2 and 0"]


def test_a_program_that_reads_what_its_neighbour_writes_races():
    @triton.jit
    def shift(x_ptr, BLOCK: tl.constexpr):
        i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        tl.store(x_ptr + i, tl.load(x_ptr + i + 1))

    with count_traffic() as traffic:
        shift[(4,)](torch.zeros(129), BLOCK=32)
    assert traffic.races == ["shift: store and load of 3 addresses, e.g. by programs 1 and 0"]


def test_a_store_that_writes_an_address_twice_races():
    @triton.jit
    def squeeze(x_ptr, BLOCK: tl.constexpr):
        i = tl.arange(0, BLOCK)
        tl.store(x_ptr + i // 2, i.to(tl.float32))

    with count_traffic() as traffic:
        squeeze[(1,)](torch.zeros(16), BLOCK=32)
    assert traffic.races == ["squeeze: one store of program 0 writes 16 addresses again"]


def test_atomics_may_meet_but_not_plain_accesses():
    @triton.jit
    def accumulate(x_ptr, y_ptr, PEEK: tl.constexpr, BLOCK: tl.constexpr):
        i = tl.arange(0, BLOCK)
        tl.atomic_add(y_ptr + i, tl.load(x_ptr + tl.program_id(0) * BLOCK + i))
        if PEEK:
            tl.store(x_ptr + tl.program_id(0) * BLOCK + i, tl.load(y_ptr + i))

    with count_traffic() as good:
        accumulate[(2,)](torch.zeros(64), torch.zeros(32), PEEK=False, BLOCK=32)
    assert good.races == []
    with count_traffic() as bad:
        accumulate[(2,)](torch.zeros(64), torch.zeros(32), PEEK=True, BLOCK=32)
    assert bad.races == ["accumulate: atomic and load of 32 addresses, e.g. by programs 1 and 0"]


def test_the_work_of_dots_is_counted():
    @triton.jit
    def product(a_ptr, b_ptr, c_ptr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
        m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
        a = tl.load(a_ptr + m[:, None] * K + k[None, :])
        b = tl.load(b_ptr + k[:, None] * N + n[None, :])
        tl.store(c_ptr + m[:, None] * N + n[None, :], tl.dot(a, b, input_precision="ieee"))

    with count_traffic() as traffic:
        product[(1,)](torch.zeros(16, 64), torch.zeros(64, 32), torch.zeros(16, 32), M=16, N=32, K=64)
    assert traffic.dot_flops == 2 * 16 * 32 * 64
    assert traffic.by_launch[0].dots == {"ieee": 2 * 16 * 32 * 64}


def test_nothing_stays_patched():
    from triton.runtime.interpreter import GridExecutor, InterpreterBuilder

    before = (GridExecutor.__call__, InterpreterBuilder.create_masked_load, InterpreterBuilder.create_dot)
    with count_traffic():
        pass
    assert before == (
        GridExecutor.__call__, InterpreterBuilder.create_masked_load, InterpreterBuilder.create_dot
    )  # fmt: skip
