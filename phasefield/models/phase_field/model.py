"""The model: embedding, banks, coupler, backbone, memories, readout."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...layers import PhaseDropout, PhaseEmbedding, PhaseLinear, PhaseRMSNorm
from ..base import ModelLoss
from .config import PhaseFieldConfig
from .interfaces import Outcome, map_tensors
from .original.frame import OriginalReadout, origin_initialised
from .registry import BACKBONES, BANKS, COUPLERS, MEMORIES, OBJECTIVES, SAMPLERS


@dataclass(frozen=True)
class PhaseFieldState:
    """What a model carries from token to token: the states of its parts, in its config's order."""

    banks: tuple[Any, ...]
    backbone: Any
    memories: tuple[Any, ...]

    def detach(self) -> "PhaseFieldState":
        """The same numbers without their history, for truncated back-propagation."""
        return map_tensors(self, Tensor.detach)

    def to(self, device: torch.device | str) -> "PhaseFieldState":
        """The same numbers on another device."""
        return map_tensors(self, lambda tensor: tensor.to(device))


class _Readout(nn.Module):
    """``norm(L z)``: what the head multiplies."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = PhaseLinear(dim, dim)
        self.norm = PhaseRMSNorm(dim)

    def forward(self, z: Tensor) -> Tensor:
        return self.norm(self.linear(z))


class PhaseField(nn.Module):
    """Embedding → banks side by side → coupler → backbone → memories → readout → head.

        ``x = norm(E[token])``,                  ``h = x + coupler(bank_1(x), …, bank_K(x))``,
        ``z = backbone(h)``,                     ``z ← z + Σ_m s_m · memory_m(z)``,
        ``logit_v = Re Σ_d H_vd conj(r_d)``,     ``r = norm(L z)``

    with a learned scale s a memory, 0.1 at the start as in the origin, and the head H the embedding E unless
    ``tie_embeddings`` is off. Causal; what is carried from token to token does not grow. Parts are built by
    name from the config: see :mod:`~phasefield.models.phase_field.interfaces`.

    ``variant="original"`` takes the origin's formulas wherever a part has them (registered as
    ``original_<type>``), no norm on the embedding, no x beside the coupler, a head of its own, and weights
    N(0, 0.02²); its dropout, which squared what it kept and was active in evaluation, is left out.
    """

    def __init__(self, config: PhaseFieldConfig) -> None:
        super().__init__()
        self.config = config
        dim, variant, original = config.dim, config.variant, config.variant == "original"
        self.embedding = PhaseEmbedding(config.vocab_size, dim)
        self.input_norm = nn.Identity() if original else PhaseRMSNorm(dim)
        self.banks = nn.ModuleDict()
        for name, part in config.banks.items():
            width = part.get("dim") or dim
            rest = {key: value for key, value in part.items() if key != "dim"}
            self.banks[name] = BANKS.build(rest, variant, dim, width)
        bank_dims = [bank.dim for bank in self.banks.values()]
        self.coupler = COUPLERS.build(config.coupler, variant, dim, bank_dims)
        self.dropout = PhaseDropout(config.dropout)
        backbone = {"dropout": config.dropout} | config.backbone if config.dropout else config.backbone
        self.backbone = BACKBONES.build(backbone, variant, dim, config.num_layers)
        self.memories = nn.ModuleDict(
            {name: MEMORIES.build(part, variant, dim) for name, part in config.memories.items()}
        )
        self.memory_scales = nn.ParameterDict(
            {name: nn.Parameter(torch.tensor(0.1), requires_grad=not original) for name in config.memories}
        )
        self.readout = OriginalReadout(dim) if original else _Readout(dim)
        tied = config.tie_embeddings and not original
        self.head = None if tied else PhaseEmbedding(config.vocab_size, dim)
        self.objectives = nn.ModuleDict(
            {name: OBJECTIVES.build(part, variant) for name, part in config.objectives.items()}
        )
        self.sampler = SAMPLERS.build(config.sampler, variant)
        if original:
            self.apply(origin_initialised)

    def forward(self, tokens: Tensor, state: PhaseFieldState | None = None) -> tuple[Tensor, PhaseFieldState]:
        """Logits ``[B, T, vocab_size]`` of what follows each of ``tokens`` ``[B, T]``, and the state."""
        hidden, _, state = self.stream(tokens, state)
        return self._logits(self.readout(hidden)), state

    def step(self, token: Tensor, state: PhaseFieldState) -> tuple[Tensor, PhaseFieldState]:
        """One token ``[B]`` → logits ``[B, vocab_size]``; for decoding: may overwrite ``state``."""
        x = self.input_norm(self.embedding(token))
        outputs, banks = [], []
        for bank, of_bank in zip(self.banks.values(), state.banks, strict=True):
            y, of_bank = bank.step(x, token, of_bank)
            outputs.append(y)
            banks.append(of_bank)
        z, backbone = self.backbone.step(self._coupled(x, outputs)[0], state.backbone)
        total, memories = z, []
        for name, of_memory in zip(self.memories, state.memories, strict=True):
            read, of_memory = self.memories[name].step(z, of_memory)
            total = total + self.memory_scales[name] * read
            memories.append(of_memory)
        logits = self._logits(self.readout(total))
        return logits, PhaseFieldState(tuple(banks), backbone, tuple(memories))

    def init_state(self, batch: int) -> PhaseFieldState:
        """The state at the beginning of ``batch`` texts."""
        return PhaseFieldState(
            tuple(bank.init_state(batch) for bank in self.banks.values()),
            self.backbone.init_state(batch),
            tuple(memory.init_state(batch) for memory in self.memories.values()),
        )

    def loss(self, tokens: Tensor, targets: Tensor, state: PhaseFieldState | None = None) -> ModelLoss:
        """The objectives' weighted sum; ``content`` is the mean cross-entropy of ``targets`` ``[B, T]``."""
        hidden, parts, state = self.stream(tokens, state)
        outcome = Outcome(hidden, self.readout(hidden), self._head(), parts, targets)
        total, terms = 0.0, {}
        for name, objective in self.objectives.items():
            value = objective(outcome)
            total = total + objective.weight * value
            is_content = self.config.objectives[name]["type"] == "cross_entropy"
            terms["content" if is_content else name] = value.detach()
        return ModelLoss(total, terms, state)

    def stream(
        self, tokens: Tensor, state: PhaseFieldState | None = None
    ) -> tuple[Tensor, list[Tensor], PhaseFieldState]:
        """From tokens ``[B, T]`` to what the readout reads.

        Returns:
            ``(z, parts, state)``: z ``[B, T, dim, 2]`` with what the memories add, each bank's part in the
            coupled stream, and the new state.
        """
        if state is None:
            state = PhaseFieldState((None,) * len(self.banks), None, (None,) * len(self.memories))
        x = self.input_norm(self.embedding(tokens))
        outputs, banks = [], []
        for bank, of_bank in zip(self.banks.values(), state.banks, strict=True):
            y, of_bank = bank(x, tokens, of_bank)
            outputs.append(y)
            banks.append(of_bank)
        h, parts = self._coupled(x, outputs)
        z, backbone = self.backbone(h, state.backbone)
        total, memories = z, []
        for name, of_memory in zip(self.memories, state.memories, strict=True):
            read, of_memory = self.memories[name](z, of_memory)
            total = total + self.memory_scales[name] * read
            memories.append(of_memory)
        return total, parts, PhaseFieldState(tuple(banks), backbone, tuple(memories))

    @torch.inference_mode()
    def generate(
        self, prompt: Tensor, max_new_tokens: int, generator: torch.Generator | None = None
    ) -> Iterator[Tensor]:
        """Continue prompts ``[B, T]`` by the config's sampler, yielding each token ``[B]`` as it is drawn.

        Prompts are read 4,096 tokens at a time. What grows with the text are its tokens alone, which samplers
        may look back on.
        """
        length, state = prompt.shape[1], None
        history = torch.cat([prompt, prompt.new_zeros(prompt.shape[0], max_new_tokens)], dim=1)
        for place in range(length, length + max_new_tokens):
            if state is None:
                for piece in prompt.split(4096, dim=1):
                    hidden, _, state = self.stream(piece, state)
                logits = self._logits(self.readout(hidden[:, -1]))
            else:
                logits, state = self.step(history[:, place - 1], state)
            history[:, place] = token = self.sampler(logits, history[:, :place], generator)
            yield token

    def _coupled(self, x: Tensor, outputs: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        h, parts = self.coupler(outputs)
        h = self.dropout(h)
        return (h if self.config.variant == "original" else x + h), parts

    def _head(self) -> Tensor:
        return (self.embedding if self.head is None else self.head).weight

    def _logits(self, readout: Tensor) -> Tensor:
        return F.linear(readout.flatten(-2), self._head().flatten(1))


def parameter_counts(model: nn.Module) -> dict[str, int]:
    """Trained numbers of a model by its direct parts, and their ``total``; what is shared counts once."""
    counts, seen = {}, set()
    for name, part in model.named_children():
        parameters = {id(p): p.numel() for p in part.parameters() if p.requires_grad and id(p) not in seen}
        seen |= parameters.keys()
        if parameters:
            counts[name] = sum(parameters.values())
    own = sum(p.numel() for p in model.parameters(recurse=False) if p.requires_grad)
    return {**counts, "total": sum(counts.values()) + own}
