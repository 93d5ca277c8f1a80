"""Complex matrices as real ones, and their products by either algorithm, for the forms in PyTorch.

conj_physical throughout: inside a custom op that runs in a compiled graph, conj()'s lazy bit is dropped.
"""

import torch
from torch import Tensor


def structured(w: Tensor) -> Tensor:
    """``[…, N, K, 2]`` as real ``[…, 2N, 2K]``: r + i s becomes the block (r −s; s r)."""
    real, imaginary = w.unbind(-1)
    blocks = torch.stack([real, -imaginary, imaginary, real], dim=-1)
    *batch, rows, columns = real.shape
    return blocks.view(*batch, rows, columns, 2, 2).transpose(-3, -2).reshape(*batch, 2 * rows, 2 * columns)


def interleaved(x: Tensor) -> Tensor:
    """``[…, M, K, 2]`` as real ``[…, M, 2K]``."""
    return x.flatten(-2)


def folded(r: Tensor, sign: int) -> Tensor:
    """Real ``[…, 2N, 2K]`` of products of parts as the complex ``[…, N, K, 2]`` that conjugates one factor.

    With the blocks (p q; r s): real p + s, imaginary r − q (sign 1, the second factor conjugated) or q − r.
    """
    *batch, rows, columns = r.shape
    blocks = r.view(*batch, rows // 2, 2, columns // 2, 2)
    p, q = blocks[..., 0, :, :].unbind(-1)
    r, s = blocks[..., 1, :, :].unbind(-1)
    return torch.stack([p + s, r - q if sign > 0 else q - r], dim=-1)


def matmul(a: Tensor, b: Tensor, algorithm: str, out: Tensor | None = None) -> Tensor:
    """Complex ``a @ b``: torch's own product, or (``"gauss"``) three real ones on sums formed beforehand."""
    if algorithm == "direct":
        return torch.matmul(a, b, out=out)
    # T₁ = (a + a') b,   T₂ = a (b' − b),   T₃ = a' (b + b');     real T₁ − T₃,   imaginary T₁ + T₂
    left, right = _planes(a), _planes(b)
    torch.add(a.real, a.imag, out=left[0])
    left[1].copy_(a.real)
    left[2].copy_(a.imag)
    right[0].copy_(b.real)
    torch.sub(b.imag, b.real, out=right[1])
    torch.add(b.real, b.imag, out=right[2])
    first, second, third = (torch.matmul(*factors) for factors in zip(left, right, strict=True))
    if out is None:
        out = torch.empty(first.shape, dtype=a.dtype, device=a.device)
    torch.sub(first, third, out=out.real)
    torch.add(first, second, out=out.imag)
    return out


def _planes(a: Tensor) -> Tensor:
    # Room for three real matrices, each stored as a is, transposed or not.
    shape = (3, *a.shape)
    transposed = a.ndim > 1 and a.stride(-2) == 1 and a.shape[-1] > 1
    if transposed:
        shape = (*shape[:-2], shape[-1], shape[-2])
    planes = torch.empty(shape, dtype=a.real.dtype, device=a.device)
    return planes.transpose(-2, -1) if transposed else planes
