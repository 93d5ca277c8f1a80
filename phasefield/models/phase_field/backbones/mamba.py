"""Mamba in the backbone's place, for comparison."""

from typing import Any

from torch import Tensor, nn

from ....layers import Mamba
from ....layers.dropout import Dropout
from ....layers.rms_norm import RMSNorm
from ..interfaces import Backbone
from ..registry import register_backbone


@register_backbone("mamba", description="Mamba blocks on the parts as real channels")
class MambaBackbone(Backbone):
    """:class:`phasefield.layers.Mamba` blocks on the ``2 dim`` real channels that complex ones are.

    Args:
        dim: complex channels.
        num_layers: blocks.
        dropout: of what each block adds.
        state_dim: states a channel; the paper's default.
        expand: the blocks' inner width over the real channels; the paper's default.
    """

    def __init__(
        self, dim: int, num_layers: int, dropout: float = 0.0, state_dim: int = 16, expand: int = 2
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Mamba(2 * dim, d_state=state_dim, expand=expand) for _ in range(num_layers)
        )
        self.dropout = Dropout(dropout)
        self.norm = RMSNorm(2 * dim)

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, tuple[Any, ...]]:
        """``[B, T, dim, 2]`` → the same, and each block's state."""
        h, finals = x.flatten(-2), []
        for number, block in enumerate(self.blocks):
            y, final = block(h, None if state is None else state[number])
            h = h + self.dropout(y - h)  # a block is residual itself
            finals.append(final)
        return self.norm(h).unflatten(-1, (-1, 2)), tuple(finals)

    def step(self, x: Tensor, state: tuple[Any, ...]) -> tuple[Tensor, tuple[Any, ...]]:
        h, states = x.flatten(-2), []
        for block, of_block in zip(self.blocks, state, strict=True):
            h, of_block = block.step(h, of_block)
            states.append(of_block)
        return self.norm(h).unflatten(-1, (-1, 2)), tuple(states)

    def init_state(self, batch: int) -> tuple[Any, ...]:
        return tuple(block.init_state(batch) for block in self.blocks)
