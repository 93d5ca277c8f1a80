"""The RMS norm is torch's, and its gradients those of its formula."""

import copy

import pytest
import torch
from torch import nn

from phasefield.layers.rms_norm import RMSNorm


def pair(dim, eps, dtype=torch.float64):
    """Ours and torch's, with the same weights."""
    torch.manual_seed(0)
    ours, torchs = RMSNorm(dim, eps).to(dtype), nn.RMSNorm(dim, eps).to(dtype)
    nn.init.normal_(ours.weight)
    torchs.load_state_dict(ours.state_dict())
    return ours, torchs


@pytest.mark.parametrize("eps", [None, 1e-2])
@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 5, 7), (0, 7)])
def test_values_and_gradients_are_torchs(shape, eps):
    ours, torchs = pair(7, eps)
    x, weights = torch.randn(2, *shape, dtype=torch.float64)
    found, expected = (
        torch.autograd.grad((norm(leaf) * weights).sum(), (leaf, norm.weight))
        for norm in (ours, torchs)
        for leaf in [x.clone().requires_grad_()]
    )
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(ours(x), torchs(x))


def test_strides_do_not_matter_and_gradients_pass_the_numerical_check():
    ours, _ = pair(4, 1e-3)
    x = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: ours(x.permute(2, 1, 0)).permute(1, 0, 2), x)


def test_in_float32_it_is_as_exact_as_torchs():
    ours, torchs = pair(300, 1e-5, torch.float32)
    x = torch.randn(50, 300)
    exact = copy.deepcopy(ours).double()(x.double())
    # Sums of 300 squares and a few products, each rounded to 2^-24.
    assert (ours(x) - exact).abs().max() < 8 * 2**-24 * exact.abs().max()
    with torch.no_grad():
        assert torch.equal(ours(x), torchs(x))
    assert ours.bfloat16()(x.bfloat16()).dtype == torch.bfloat16
