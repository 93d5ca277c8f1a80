"""The short causal convolution of state-space blocks."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CausalConv1d(nn.Conv1d):
    """A depthwise convolution of ``[B, T, C]`` along time that sees the past only and carries its tail.

        ``y_t = Σ_k w_k x_{t - K + 1 + k} + b``

    Its parameters are those of ``nn.Conv1d(channels, channels, kernel_size, groups=channels)``, by the same
    names.

    Args:
        channels: C.
        kernel_size: K; the tail holds the last K - 1 inputs.
        bias: whether there is a b.
    """

    def __init__(self, channels: int, kernel_size: int, bias: bool = True) -> None:
        super().__init__(channels, channels, kernel_size, groups=channels, bias=bias)

    def forward(self, x: Tensor, tail: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(y, tail)`` of ``x`` ``[B, T, C]`` that follows a tail ``[B, K - 1, C]`` (zeros if None)."""
        if tail is None:
            tail = x.new_zeros(x.shape[0], self.kernel_size[0] - 1, x.shape[2])
        x = torch.cat([tail.to(x.dtype), x], dim=1)
        # As an image one pixel high, channels last: on a CPU twice as fast as a conv1d of the transpose.
        y = F.conv2d(x.mT.unsqueeze(2), self.weight.unsqueeze(2), groups=self.groups)
        if self.bias is not None:  # apart: as a sum its gradient takes a thirtieth of the time
            y = y.add_(self.bias[:, None, None])
        last = x[:, x.shape[1] - self.kernel_size[0] + 1 :]
        # A copy: a view would keep the whole of x alive as long as the state.
        return y.squeeze(2).mT, last.to(self.weight.dtype, copy=True)

    def step(self, x: Tensor, tail: Tensor) -> Tensor:
        """One token ``[B, C]``, under ``no_grad``: overwrites ``tail`` and returns y."""
        window = torch.cat([tail, x.to(tail.dtype).unsqueeze(1)], dim=1)
        tail.copy_(window[:, 1:])
        y = (window * self.weight[:, 0].T).sum(1)
        return (y if self.bias is None else y + self.bias).to(x.dtype)
