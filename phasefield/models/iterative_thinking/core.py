"""The block that is iterated, and how its iterations and its stopping are trained in bounded memory."""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..cached_decoder import ExtendLayer
from ..transformer import TransformerBlock, check_fields, check_shape


@dataclass(frozen=True)
class IterativeThinkingConfig:
    """The causal model's, and what the masked one shares with it; width, layers and heads are the origin's.

    Raises:
        ValueError: a value out of range.
    """

    vocab_size: int
    """symbols of the tokenizer"""
    hidden_dim: int = 256
    """width of the hidden and the carried state"""
    num_layers: int = 6
    """the shared block has one transformer block fewer, as the origin counts; at least 2"""
    num_heads: int = 8
    """attention heads a block"""
    block_size: int = 128
    """positions; train with --seq-len of the same size, or the last ones stay untrained"""
    dropout: float = 0.0
    """of attention weights and both branches of a block"""
    iterations: int = 6
    """passes through the shared block: always so many if causal; if masked, at most so many in training"""
    gradient_iterations: int = 2
    """of these, the last that gradients go through; bounds the memory of training"""
    convergence_weight: float = 0.05
    """of the last change of the carried state in the total loss; the origin's"""
    halting_rate: float = 0.2
    """of the geometric prior on the number of passes: they are 1 / rate on average (PonderNet's)"""
    halting_weight: float = 0.01
    """of the divergence from that prior in the total loss (PonderNet's)"""

    def __post_init__(self) -> None:
        check_shape(self.hidden_dim, self.num_layers, self.num_heads, self.block_size, self.dropout)
        allowed = {
            "num_layers": (self.num_layers, self.num_layers >= 2, "at least 2"),
            "iterations": (self.iterations, self.iterations >= 1, "at least 1"),
            "gradient_iterations": (
                self.gradient_iterations,
                1 <= self.gradient_iterations <= self.iterations,
                f"at least 1 and at most iterations ({self.iterations})",
            ),
            "convergence_weight": (
                self.convergence_weight,
                0 <= self.convergence_weight < math.inf,
                "at least 0 and finite",
            ),
            "halting_rate": (self.halting_rate, 0 < self.halting_rate < 1, "above 0 and below 1"),
            "halting_weight": (
                self.halting_weight,
                0 <= self.halting_weight < math.inf,
                "at least 0 and finite",
            ),
        }
        check_fields(allowed)


class ThinkingCore(nn.Module):
    """A shared block with a carried state: from ``h_0 = 0``, pass k computes

        ``z_k = F(W_e e + b + W_h h_k)``,    ``h_{k+1} = W_r z_k + b_r``,    ``λ_k = σ(w z_k + b_λ)``

    with ``e`` the token embeddings (if causal, plus position embeddings; otherwise attention knows the
    positions), F the ``num_layers − 1`` post-norm transformer blocks, ``W_o z_k`` the logits of pass k and
    λ_k the probability that it is the last, given that it came. ``W_e e + b`` is the same in all passes and
    computed once.

    Args:
        config: see :class:`IterativeThinkingConfig`.
        num_tokens: rows of the embedding table (the masked model has one more than symbols).
        causal: whether a token sees only what came before it.

    Source: Internal Recurrence ("Iterative Thinking") of Building-LLMs; the stopping is that of A. Banino et
    al., "PonderNet: learning to ponder", 2021.
    """

    def __init__(self, config: IterativeThinkingConfig, num_tokens: int, causal: bool) -> None:
        super().__init__()
        self.config = config
        dim = config.hidden_dim
        self.token_embedding = nn.Embedding(num_tokens, dim)
        self.position_embedding = nn.Embedding(config.block_size, dim) if causal else None
        if causal:
            for table in (self.token_embedding, self.position_embedding):
                nn.init.normal_(table.weight, 0, math.sqrt(0.5))  # so that their sum has unit scale
        self.input = nn.Linear(dim, dim)
        self.carried = nn.Linear(dim, dim, bias=False)
        self.blocks = nn.ModuleList(
            TransformerBlock(dim, config.num_heads, config.dropout, causal=causal, norm_first=False)
            for _ in range(config.num_layers - 1)
        )
        self.recurrence = nn.Linear(dim, dim)
        self.halting = nn.Linear(dim, 1)
        # Stopping starts at the prior.
        nn.init.zeros_(self.halting.weight)
        nn.init.constant_(self.halting.bias, math.log(config.halting_rate / (1 - config.halting_rate)))
        self.head = nn.Linear(dim, config.vocab_size)

    def project(self, tokens: Tensor, position: int = 0) -> Tensor:
        """``W_e e + b`` ``[B, T, D]`` of ``tokens`` ``[B, T]`` that stand at ``position`` of the block."""
        embedded = self.token_embedding(tokens)
        if self.position_embedding is not None:
            embedded = embedded + self.position_embedding.weight[position : position + tokens.shape[1]]
        return self.input(embedded)

    def iterate(
        self,
        projected: Tensor,
        carried: Tensor | None,
        number: int = 0,
        extend: ExtendLayer | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One pass: ``(z, h)`` ``[B, T, D]`` from ``projected`` and the last ``h`` (None: zeros).

        Args:
            projected: what :meth:`project` gave.
            carried: the last pass's h.
            number: of the pass; with ``extend``, pass n's block l is attention ``n (num_layers − 1) + l``.
            extend: gives each attention what came before.
        """
        z = projected if carried is None else projected + self.carried(carried)
        for layer, block in enumerate(self.blocks):
            place = number * len(self.blocks) + layer
            z = block(z, None if extend is None else partial(extend, place))
        return z, self.recurrence(z)

    def trained_passes(self, projected: Tensor) -> tuple[Tensor, Tensor]:
        """The last ``gradient_iterations`` of a random number of passes.

        Only they keep what their gradient needs: memory does not depend on ``iterations``. The number of
        passes before them, without gradients, is uniform, so that every pass is trained to be the last, and
        to go on well from wherever the state has come (truncated back-propagation through the iterations).

        Returns:
            ``(z, change)``: ``[K, B, T, D]``, and the mean ``|h_{k+1} − h_k|`` of the last pass, a scalar.
        """
        window = self.config.gradient_iterations
        before = int(torch.randint(self.config.iterations - window + 1, ()))
        carried = torch.zeros_like(projected)  # not None: every weight gets a gradient, also of a first pass
        with torch.no_grad():
            for _ in range(before):
                _, carried = self.iterate(projected, carried)
        # Some releases of torch keep the weights that autocast has cast, here without their gradients.
        torch.clear_autocast_cache()
        hidden = []
        for _ in range(window):
            last = carried
            z, carried = self.iterate(projected, last)
            hidden.append(z)
        return torch.stack(hidden), (carried - last).abs().float().mean()

    def training_flops_per_token(self) -> float:
        """Floating-point operations of :meth:`trained_passes` and its losses, attention's products left out.

        A weight costs 2 in a pass forward and 4 more where its gradient is needed; the passes before the
        last ``gradient_iterations`` count with their mean number.
        """

        def weights(*parts: nn.Module) -> int:
            return sum(parameter.numel() for part in parts for parameter in part.parameters())

        window = self.config.gradient_iterations
        before = (self.config.iterations - window) / 2
        a_pass = weights(self.carried, self.blocks, self.recurrence)
        read = weights(self.head, self.halting)
        return 6.0 * (weights(self.input) + window * (a_pass + read)) + 2.0 * before * a_pass


def pondered(costs: Tensor, halting: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """PonderNet's two losses over K passes, the last of which stops for certain.

        ``p_k = λ_k Π_{j<k} (1 − λ_j)``,    ``(Σ_k p_k cost_k,  KL(p ‖ geometric(rate)))``

    Both distributions put what remains on the last pass. A geometric distribution has no memory: the prior
    of passes n to n + K, given that n came, is the prior of the first K. So the losses of a window of passes
    need nothing of the passes before it.

    Args:
        costs: ``[K, …]``, the loss of answering after each pass.
        halting: ``[K, …]``, the logits of λ.
        rate: of the prior, in (0, 1).

    Returns:
        Two tensors ``[…]``.
    """
    go_on = F.logsigmoid(-halting[:-1]).cumsum(0)
    reached = torch.cat([torch.zeros_like(halting[:1]), go_on])  # log Π_{j<k} (1 − λ_j)
    stops = torch.cat([F.logsigmoid(halting[:-1]), torch.zeros_like(halting[:1])])
    log_p = reached + stops
    last = costs.shape[0] - 1
    log_prior = torch.arange(last + 1, dtype=costs.dtype, device=costs.device) * math.log1p(-rate)
    log_prior[:last] += math.log(rate)
    log_prior = log_prior.reshape(-1, *[1] * (costs.ndim - 1))
    p = log_p.exp()
    return (p * costs).sum(0), (p * (log_p - log_prior)).sum(0)
