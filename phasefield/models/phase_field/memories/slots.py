"""The origin's memory: slots that answer a query by the coherence of its phases with their keys."""

import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ....layers import PhaseLinear, PhaseRMSNorm
from ..interfaces import Memory
from ..registry import register_memory
from .top_k import read_top_k


@register_memory("slots", description="phase-associative slots, and shards of more of them")
class SlotMemory(Memory):
    """``L norm(Σ_n softmax_n(s · coh(q, K_n)) V_n)`` over the top k slots, with ``q = L z``.

    ``s``, one over the temperature, is learned and starts at ``√(2 dim)``, where the scores of random keys
    have variance 1: with the origin's 1 the weights of the 64 best slots are nearly equal.

    Shards are further slots in buffers: they are saved with the model, move with it, and compete with its
    own slots for the top k, which is all that attaching or detaching one changes.

    Args:
        slots: M; the origin's small size.
        top_k: slots a query reads; the origin's default.
    """

    def __init__(self, dim: int, slots: int = 2048, top_k: int = 64) -> None:
        super().__init__()
        if min(slots, top_k) < 1:
            raise ValueError(f"slots and top_k are {slots} and {top_k}; each must be at least 1.")
        self.dim, self.top_k = dim, top_k
        self.query = PhaseLinear(dim, dim)
        self.keys = nn.Parameter(2**-0.5 * torch.randn(slots, dim, 2))
        self.values = nn.Parameter(2**-0.5 * torch.randn(slots, dim, 2))
        self.log_sharpness = nn.Parameter(torch.tensor(0.5 * math.log(2 * dim)))
        self.norm = PhaseRMSNorm(dim)
        self.output = PhaseLinear(dim, dim)
        self.shards = nn.ModuleDict()

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        return self.output(self.norm(self.answers(x))), state

    def queries(self, x: Tensor) -> Tensor:
        """What the memory is asked at each place of a stream ``[…, dim, 2]``: keys that would answer."""
        return self.query(x)

    def answers(self, x: Tensor) -> Tensor:
        """What the slots say at each place of a stream ``[…, dim, 2]``, before norm and output."""
        keys = torch.cat([self.keys, *(shard.keys for shard in self.shards.values())])
        values = torch.cat([self.values, *(shard.values for shard in self.shards.values())])
        queries = F.normalize(self.queries(x).flatten(0, -3).flatten(1), dim=-1)
        keys = F.normalize(keys.flatten(1), dim=-1)
        read = read_top_k(queries, keys, values.flatten(1), self.log_sharpness.exp(), self.top_k)
        return read.view(*x.shape)

    def shard(self, name: str) -> tuple[Tensor, Tensor]:
        """An attached shard's keys and values, the very buffers.

        Raises:
            ValueError: there is none of that name.
        """
        if name not in self.shards:
            attached = ", ".join(self.shards) or "none"
            raise ValueError(f"there is no shard {name!r}; attached are {attached}.")
        return self.shards[name].keys, self.shards[name].values

    def attach_shard(self, name: str, keys: Tensor, values: Tensor) -> None:
        """Add slots that no optimizer sees.

        Args:
            name: of the shard, letters, digits and underscores.
            keys, values: ``[S, dim, 2]``; copied. A key's length does not count.

        Raises:
            ValueError: a shape that does not fit, a name that is taken or not allowed.
        """
        if not name.isidentifier():
            raise ValueError(f"name is {name!r}; allowed are letters, digits and underscores.")
        if name in self.shards:
            raise ValueError(f"a shard {name!r} is attached already; detach it first.")
        wanted = (keys.shape[0], self.dim, 2) if keys.ndim else ()
        for argument, tensor in (("keys", keys), ("values", values)):
            if tensor.shape != wanted:
                raise ValueError(f"{argument} has shape {list(tensor.shape)}; allowed is [S, {self.dim}, 2].")
        self.shards[name] = _Shard(*(t.detach().to(self.keys, copy=True) for t in (keys, values)))

    def detach_shard(self, name: str) -> tuple[Tensor, Tensor]:
        """Take a shard out; its keys and values.

        Raises:
            ValueError: there is none of that name.
        """
        tensors = self.shard(name)
        del self.shards[name]
        return tensors

    def save_shard(self, name: str, path: str | Path) -> None:
        """Write an attached shard to a safetensors file.

        Raises:
            ValueError: there is none of that name.
        """
        keys, values = self.shard(name)
        tensors = {"keys": keys.contiguous(), "values": values.contiguous()}
        save_file(tensors, str(path), {"format": "pt", "name": name})

    def load_shard(self, name: str, path: str | Path) -> None:
        """Attach a shard from a file that :meth:`save_shard` wrote.

        Raises:
            ValueError: the file holds no shard, or it does not fit: see :meth:`attach_shard`.
            OSError: it cannot be read.
        """
        try:
            tensors = load_file(str(path))
        except SafetensorError as error:
            raise ValueError(f"{path} is no safetensors file: {error}.") from error
        if tensors.keys() != {"keys", "values"}:
            raise ValueError(f"{path} holds {', '.join(sorted(tensors))}; a shard is keys and values.")
        self.attach_shard(name, tensors["keys"], tensors["values"])

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        # A checkpoint brings its shards along: make room before they are copied (torch then walks down to
        # them), and let go of those it does not have.
        own = f"{prefix}shards."
        saved = {key.removeprefix(own).split(".")[0]: key for key in state_dict if key.startswith(own)}
        for name in [name for name in self.shards if name not in saved]:
            del self.shards[name]
        for name in saved:
            keys, values = (state_dict[f"{own}{name}.{part}"] for part in ("keys", "values"))
            self.shards[name] = _Shard(*(self.keys.new_empty(t.shape) for t in (keys, values)))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        return f"slots={self.keys.shape[0]}, top_k={self.top_k}"


class _Shard(nn.Module):
    """Slots in buffers."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("keys", keys)
        self.register_buffer("values", values)
