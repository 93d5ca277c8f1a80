"""What a part has to offer, by kind. A complex number is a last axis of size 2, (real, imaginary).

A state is whatever a part carries from token to token: tensors, and tuples or dataclasses of these; None for
a part without one. ``state=None`` on the way in always means the beginning of a text. Parts are causal: what
they say of token t depends on tokens up to t alone.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


class Bank(nn.Module, ABC):
    """One view of the tokens; all banks see the same embeddings, side by side.

    Built as ``Class(model_dim, dim, **parameters)``, with the parameters of its config.

    Attributes:
        dim: complex channels of its output.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    @abstractmethod
    def forward(self, x: Tensor, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Embeddings ``[B, T, model_dim, 2]`` of tokens ``[B, T]`` → ``([B, T, dim, 2], new state)``."""

    def step(self, x: Tensor, token: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One token, x ``[B, model_dim, 2]``, for decoding; may overwrite the state."""
        y, state = self(x.unsqueeze(1), token.unsqueeze(1), state)
        return y.squeeze(1), state

    def init_state(self, batch: int) -> Any:
        """The state at the beginning of ``batch`` texts."""
        return None


class Coupler(nn.Module, ABC):
    """Makes one stream of all banks' outputs.

    Built as ``Class(dim, bank_dims, **parameters)``: the model's channels, and those of each bank.
    """

    @abstractmethod
    def forward(self, outputs: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Banks' ``[…, bank_dim, 2]`` → ``([…, dim, 2], each bank's part in it [[…, dim, 2], …])``."""


class Sequential(nn.Module, ABC):
    """A map of a stream to a stream along time: what backbones and memories are."""

    @abstractmethod
    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """``[B, T, dim, 2]`` → ``([B, T, dim, 2], new state)``."""

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One token ``[B, dim, 2]``, for decoding; may overwrite the state."""
        y, state = self(x.unsqueeze(1), state)
        return y.squeeze(1), state

    def init_state(self, batch: int) -> Any:
        """The state at the beginning of ``batch`` texts."""
        return None


class Backbone(Sequential):
    """The deep recurrent stack. Built as ``Class(dim, num_layers, **parameters)``."""


class Memory(Sequential):
    """What is added to the backbone's output. Built as ``Class(dim, **parameters)``."""


@dataclass(frozen=True)
class Outcome:
    """What a model has made of a batch, as objectives see it.

    Attributes:
        hidden: ``[B, T, D, 2]``, backbone and memories, before the readout.
        readout: ``[B, T, D, 2]``, what the head multiplies.
        head: ``[V, D, 2]``: the logit of v is ``Re Σ_d head_vd conj(readout_d)``.
        parts: each bank's part in the coupled stream, ``[B, T, D, 2]``.
        targets: ``[B, T]``, the next tokens.
    """

    hidden: Tensor
    readout: Tensor
    head: Tensor
    parts: list[Tensor]
    targets: Tensor


class Objective(nn.Module, ABC):
    """A term of the loss. Built as ``Class(**parameters)``; it must not read a value back from the device.

    Attributes:
        weight: in the total.
    """

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    @abstractmethod
    def forward(self, outcome: Outcome) -> Tensor:
        """A scalar."""


class Sampler(ABC):
    """Chooses the next token. Built as ``Class(**parameters)``."""

    @abstractmethod
    def __call__(self, logits: Tensor, history: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Logits ``[B, V]`` after the tokens ``[B, T]`` so far → ``[B]`` int64; logits stay as they are."""


def map_tensors(state: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A state of the same structure with every tensor changed.

    Raises:
        TypeError: it is made of something else than tensors, tuples, lists, dataclasses and None.
    """
    if state is None:
        return None
    if isinstance(state, Tensor):
        return change(state)
    if isinstance(state, list | tuple):
        parts = [map_tensors(part, change) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)
    if dataclasses.is_dataclass(state):
        names = [field.name for field in dataclasses.fields(state)]
        return dataclasses.replace(state, **{n: map_tensors(getattr(state, n), change) for n in names})
    raise TypeError(
        f"a state holds a {type(state).__name__}; allowed are tensors, tuples, dataclasses, None."
    )
