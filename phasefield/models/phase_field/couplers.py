"""How the banks' views become one stream."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...layers import CayleyRotation, PhaseLinear, PhaseRMSNorm
from .banks.trunk import THRESHOLD
from .interfaces import Coupler
from .registry import register_coupler
from .rotation import TrigRotation


class _Interference(Coupler):
    """``L modReLU(norm(Σ_k r_k R_k p_k))`` with ``p_k = L_k bank_k``: rotations R, real weights r.

    A subclass says what the weights are. Where two banks' parts point alike after their rotations they add,
    where they do not they cancel.
    """

    rotation: type[nn.Module] = CayleyRotation

    def __init__(self, dim: int, bank_dims: Sequence[int]) -> None:
        super().__init__()
        self.projections = nn.ModuleList(PhaseLinear(bank_dim, dim) for bank_dim in bank_dims)
        self.rotations = nn.ModuleList(self.rotation(dim) for _ in bank_dims)
        self.norm = PhaseRMSNorm(dim, threshold=THRESHOLD)
        self.output = PhaseLinear(dim, dim)

    def forward(self, outputs: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        parts = [projection(y) for projection, y in zip(self.projections, outputs, strict=True)]
        turned = [rotation(part) for rotation, part in zip(self.rotations, parts, strict=True)]
        return self.output(self.norm(self._combined(parts, turned))), parts

    def _combined(self, parts: list[Tensor], turned: list[Tensor]) -> Tensor:
        raise NotImplementedError


@register_coupler("interference", description="learned phases and weights for each bank and channel")
class InterferenceCoupler(_Interference):
    """Weights r are learned, one a bank and channel, 1 at the start."""

    def __init__(self, dim: int, bank_dims: Sequence[int]) -> None:
        super().__init__(dim, bank_dims)
        self.weights = nn.Parameter(torch.ones(len(bank_dims), dim, 1))
        self.weights._no_weight_decay = True

    def _combined(self, parts: list[Tensor], turned: list[Tensor]) -> Tensor:
        # Repeated, as wide as the numbers they multiply: see Block._mixed.
        weights = self.weights.repeat(1, 1, 2)
        return sum(weight * part for weight, part in zip(weights, turned, strict=True))


@register_coupler("routed", description="as interference, the weights of each token from a router")
class RoutedCoupler(_Interference):
    """Weights r are one a bank and token: ``K · softmax(MLP(mean_d |p_k|²))``, uniform at the start."""

    def __init__(self, dim: int, bank_dims: Sequence[int]) -> None:
        super().__init__(dim, bank_dims)
        count = len(bank_dims)
        self.router = nn.Sequential(nn.Linear(count, 4 * count), nn.GELU(), nn.Linear(4 * count, count))
        nn.init.zeros_(self.router[2].weight)
        nn.init.zeros_(self.router[2].bias)

    def _combined(self, parts: list[Tensor], turned: list[Tensor]) -> Tensor:
        power = torch.stack([part.flatten(-2).square().mean(-1) for part in parts], dim=-1)
        weights = len(parts) * self.router(2 * power).softmax(-1)
        return sum(
            weight.unsqueeze(-1).unsqueeze(-1) * part
            for weight, part in zip(weights.unbind(-1), turned, strict=True)
        )


@register_coupler("trig_interference", description="interference whose rotations take sine and cosine")
class TrigInterferenceCoupler(InterferenceCoupler):
    """:class:`InterferenceCoupler` with :class:`~.rotation.TrigRotation`."""

    rotation = TrigRotation


@register_coupler("trig_routed", description="routed, with rotations that take sine and cosine")
class TrigRoutedCoupler(RoutedCoupler):
    """:class:`RoutedCoupler` with :class:`~.rotation.TrigRotation`."""

    rotation = TrigRotation
