"""Rotary positions against complex numbers, and who uses them."""

import pytest
import torch

from phasefield.models.transformer import SelfAttention, rotated


def vectors(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("width", [1, 2, 5, 16])
def test_rotated_channels_are_complex_numbers_times_their_phase(width):
    x, half = vectors(2, 3, 11, width), width // 2
    turns = torch.arange(11).double()[:, None] * 10000.0 ** -(torch.arange(half).double() / max(half, 1))
    expected = torch.complex(x[..., :half], x[..., half : 2 * half]) * torch.exp(1j * turns)
    found = rotated(x)
    torch.testing.assert_close(found[..., :half], expected.real)
    torch.testing.assert_close(found[..., half : 2 * half], expected.imag)
    assert found[..., 2 * half :].equal(x[..., 2 * half :])


@pytest.mark.parametrize("width", [1, 5, 6])
def test_gradients_are_turned_back(width):
    x = vectors(2, 4, width).requires_grad_()
    assert torch.autograd.gradcheck(rotated, x)
    assert torch.autograd.gradgradcheck(rotated, x)


def test_a_compiler_takes_attention_whole():
    torch.manual_seed(0)
    attention, x = SelfAttention(8, 2, 0.0, False), vectors(2, 5, 8, dtype=torch.float32).requires_grad_()
    (expected,) = torch.autograd.grad(attention(x).square().sum(), x)
    whole = torch.compile(attention, fullgraph=True, backend="aot_eager")
    (found,) = torch.autograd.grad(whole(x).square().sum(), x)
    torch.testing.assert_close(found, expected)


def test_products_of_rotated_vectors_depend_on_the_distance_alone():
    q, k = vectors(2, 7)
    everywhere = rotated(q.expand(40, 7)) @ rotated(k.expand(40, 7)).T
    for distance in range(-39, 40):
        diagonal = everywhere.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    assert everywhere[0].unique().numel() == 40


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_positions_far_on_are_as_exact_as_the_dtype(dtype):
    x = vectors(20_000, 8).to(dtype)
    found = rotated(x)
    assert found.dtype == dtype
    # The angles' sines and the products are rounded to float32, the result to the dtype.
    tolerance = 4 * torch.finfo(torch.float32).eps + torch.finfo(dtype).eps
    assert (found.double() - rotated(x.double())).abs().max() < tolerance * x.double().abs().max()


@pytest.mark.parametrize("causal", [False, True])
def test_only_attention_that_sees_everything_is_told_the_order(causal):
    torch.manual_seed(0)
    attention = SelfAttention(8, 2, 0.0, causal).double()
    x, order = vectors(1, 6, 8), [3, 1, 4, 0, 2, 5]
    # The last token sees all in both cases; what it finds depends on their order only by rotation.
    assert torch.allclose(attention(x)[:, 5], attention(x[:, order])[:, 5]) == causal
