"""The transformer block that nanoGPT, Iterative Thinking and Diffusion-LM are made of."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

from ..layers.dropout import Dropout

Extend = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Takes the keys and values of new tokens, gives those of all tokens so far, the new ones last."""


class SelfAttention(nn.Module):
    """Multi-head self-attention, ``softmax(QKᵀ/√d) V`` a head, by ``scaled_dot_product_attention``.

    If it is not causal, queries and keys are :func:`rotated` by their positions. A token that sees all others
    has nothing else to tell its neighbours by: from a table of learned positions alone, models that fill
    masked characters had not left the entropy of single characters after two million of them.

    Args:
        dim: width of input and output.
        num_heads: heads; they must divide ``dim``.
        dropout: of the attention weights, in training.
        causal: whether a token sees only itself and what came before.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float, causal: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.causal = causal
        self.qkv = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)

    def forward(self, x: Tensor, extend: Extend | None = None) -> Tensor:
        """Attend within ``x`` ``[B, T, dim]``, and to the tokens that ``extend`` remembers before it."""
        # Taken apart before it is transposed: the gradients go back together in one copy.
        q, k, v = (
            part.transpose(1, 2) for part in self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        )
        if not self.causal:
            q, k = rotated(q), rotated(k)
        if extend is not None:
            k, v = (part.to(q.dtype) for part in extend(k, v))
        T, S = q.shape[-2], k.shape[-2]
        mask = None
        if self.causal and 1 < T < S:
            mask = torch.ones(T, S, dtype=torch.bool, device=x.device).tril(S - T)
        y = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=self.causal and T == S,
        )
        return self.output(y.transpose(1, 2).flatten(-2))

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, dropout={self.dropout}, causal={self.causal}"


def rotated(x: Tensor) -> Tensor:
    """Rotary position embedding: of vectors ``[…, T, d]`` the product of two depends on their distance.

    Channels i and ``⌊d/2⌋ + i`` of position t are turned by ``t · 10000^(−i/⌊d/2⌋)`` radians; of an odd d the
    last channel stays.

    Source: J. Su et al., "RoFormer: enhanced transformer with rotary position embedding", 2021.
    """
    half = x.shape[-1] // 2
    # Angles up to T radians, to float64's precision.
    place = torch.arange(x.shape[-2], dtype=torch.float64, device=x.device).unsqueeze(-1)
    angle = place * 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=x.device) / max(half, 1))
    cos, sin = angle.cos(), angle.sin()
    cos = torch.cat([cos, cos, torch.ones_like(place)][: 2 + x.shape[-1] % 2], dim=-1)
    dtype = torch.promote_types(x.dtype, torch.float32)
    return _Rotation.apply(x, cos.to(dtype), sin.to(dtype))


class _Rotation(torch.autograd.Function):
    """Turns pairs of channels, and gradients back; autograd would pass over memory twice as often."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _Rotation.apply(grad, cos, -sin), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = sin.shape[-1]
    turned = x * cos
    turned[..., :half].addcmul_(x[..., half : 2 * half], sin, value=-1)
    turned[..., half : 2 * half].addcmul_(x[..., :half], sin)
    return turned.to(x.dtype)


class TransformerBlock(nn.Module):
    """Attention, then an MLP of four times the width with GPT-2's GELU, both on a residual stream.

        ``x ← x + attention(norm(x))``,  ``x ← x + MLP(norm(x))``        with ``norm_first``, as in GPT-2
        ``x ← norm(x + attention(x))``,  ``x ← norm(x + MLP(x))``        without, as in the first transformer

    Args:
        dim: width of the stream.
        num_heads: attention heads; they must divide ``dim``.
        dropout: of the attention weights and of both branches, in training.
        causal: see :class:`SelfAttention`.
        norm_first: where the norms stand.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float, *, causal: bool, norm_first: bool) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, num_heads, dropout, causal)
        self.mlp_norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, 4 * dim)
        self.contract = nn.Linear(4 * dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, extend: Extend | None = None) -> Tensor:
        """``[B, T, dim]`` → ``[B, T, dim]``; ``extend`` is the attention's."""
        if self.norm_first:
            x = x + self.dropout(self.attention(self.attention_norm(x), extend))
            return x + self._mlp(self.mlp_norm(x))
        x = self.attention_norm(x + self.dropout(self.attention(x, extend)))
        return self.mlp_norm(x + self._mlp(x))

    def _mlp(self, x: Tensor) -> Tensor:
        return self.dropout(self.contract(F.gelu(self.expand(x), approximate="tanh")))

    def extra_repr(self) -> str:
        return f"norm_first={self.norm_first}"


def check_shape(hidden_dim: int, num_layers: int, num_heads: int, block_size: int, dropout: float) -> None:
    """Refuse the sizes that no transformer can have.

    Raises:
        ValueError: naming the field, its value and what is allowed.
    """
    allowed = {
        "hidden_dim": (hidden_dim, hidden_dim >= 1, "at least 1"),
        "num_layers": (num_layers, num_layers >= 1, "at least 1"),
        "num_heads": (
            num_heads,
            num_heads >= 1 and hidden_dim % num_heads == 0,
            f"at least 1 and divide hidden_dim ({hidden_dim})",
        ),
        "block_size": (block_size, block_size >= 1, "at least 1"),
        "dropout": (dropout, 0 <= dropout < 1, "at least 0 and below 1"),
    }
    check_fields(allowed)


def check_fields(allowed: dict[str, tuple[object, bool, str]]) -> None:
    """Raise ValueError for the first field, ``name: (value, holds, what is allowed)``, that does not hold."""
    for name, (value, holds, what) in allowed.items():
        if not holds:
            raise ValueError(f"{name} is {value!r}; it must be {what}.")
