"""phase_matmul in fast PyTorch: torch's complex product on views; bfloat16 as a structured real product."""

import torch
from torch import Tensor

from ..complex_product.views import folded, interleaved, matmul, structured
from ..pairs import as_complex


def forward(a: Tensor, b: Tensor, algorithm: str) -> Tensor:
    """``a @ b``."""
    if _is_real_form(a, algorithm):
        y = interleaved(a) @ structured(b.transpose(-3, -2)).transpose(-2, -1)
        return y.unflatten(-1, (b.shape[-2], 2))
    return torch.view_as_real(matmul(as_complex(a), as_complex(b), algorithm)).to(a.dtype)


def backward(
    grad: Tensor, a: Tensor, b: Tensor, for_a: bool, for_b: bool, algorithm: str
) -> tuple[Tensor | None, Tensor | None]:
    """With g = dL/dy:  da = g bᴴ,  db = aᴴ g, summed over the batches that an operand was repeated in."""
    grad_a = grad_b = None
    if _is_real_form(a, algorithm):
        if for_a:
            grad_a = interleaved(grad) @ structured(b.transpose(-3, -2))
            grad_a = grad_a.unflatten(-1, (a.shape[-2], 2))
        if for_b:
            grad_b = folded((interleaved(a).transpose(-2, -1) @ interleaved(grad)).float(), -1)
    else:
        g = as_complex(grad)
        if for_a:
            grad_a = torch.view_as_real(matmul(g, as_complex(b).conj_physical().transpose(-2, -1), algorithm))
        if for_b:
            grad_b = torch.view_as_real(matmul(as_complex(a).conj_physical().transpose(-2, -1), g, algorithm))
    return _summed(grad_a, a), _summed(grad_b, b)


def _summed(grad: Tensor | None, operand: Tensor) -> Tensor | None:
    return None if grad is None else grad.sum_to_size(operand.shape).to(operand.dtype)


def _is_real_form(a: Tensor, algorithm: str) -> bool:
    return a.dtype == torch.bfloat16 and algorithm == "direct"
