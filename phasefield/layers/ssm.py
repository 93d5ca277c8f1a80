"""What the state-space blocks share: their state, their first time steps, their residual stream's norm."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class SSMState:
    """What a state-space block, or a stack of them, carries from token to token.

    Attributes:
        conv: the convolution's last inputs, ``[B, d_conv - 1, channels]``, in the weights' dtype.
        ssm: the recurrence's state in float32 (float64 for a float64 module): ``[B, D, N]`` of a Mamba block,
            ``[B, H, P, N]`` of a Mamba-2 block.

    A stack has both with a leading axis of layers.
    """

    conv: Tensor
    ssm: Tensor

    def detach(self) -> "SSMState":
        """The same numbers without their history, for truncated back-propagation."""
        return SSMState(self.conv.detach(), self.ssm.detach())

    def to(self, device: torch.device | str) -> "SSMState":
        """The same numbers on another device."""
        return SSMState(self.conv.to(device), self.ssm.to(device))

    def layer(self, index: int) -> "SSMState":
        """A stack's state of one layer, sharing memory with it."""
        return SSMState(self.conv[index], self.ssm[index])

    @staticmethod
    def stack(states: "list[SSMState]") -> "SSMState":
        """The state of a stack of layers."""
        return SSMState(
            torch.stack([state.conv for state in states]), torch.stack([state.ssm for state in states])
        )


def require_sizes(**sizes: int) -> None:
    """Raise unless every size is at least 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}; it must be at least 1.")


def initial_dt_bias(count: int, smallest: float = 1e-3, largest: float = 0.1) -> Tensor:
    """Biases whose softplus is log-uniform between the two: ``log(e^Δ − 1) = Δ + log(1 − e^-Δ)``."""
    dt = torch.exp(torch.empty(count).uniform_(math.log(smallest), math.log(largest)))
    return dt + torch.log(-torch.expm1(-dt))


def normed(norm: nn.RMSNorm, x: Tensor) -> Tensor:
    """The norm of a residual stream that may be wider than the weights."""
    return norm(x.to(norm.weight.dtype))


def at_least_float32(tensor: Tensor) -> Tensor:
    """In float32; float64 stays."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def state_like(parameter: Tensor, *shape: int) -> Tensor:
    """Zeros on the parameter's device, float32 (float64 for a float64 parameter)."""
    return at_least_float32(parameter.new_zeros(shape))
