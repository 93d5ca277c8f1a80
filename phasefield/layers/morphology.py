"""Words as rotated roots: the embedding of (prefix, base, suffix), its heads and their loss."""

import torch
from torch import Tensor, nn

from .cayley import cayley
from .linear_cross_entropy import linear_cross_entropy
from .phase import PhaseEmbedding, phase_product


class MorphologicalEmbedding(nn.Module):
    """A root's complex vector, turned by its affixes: ``z = R_suffix R_prefix E_base``.

    An affix turns channel d by ``2 atan a_d`` (Cayley), so lengths are the root's; affix 0, none, is the
    identity exactly and stays so. Takes the place of :class:`PhaseEmbedding`, for the rows that
    :meth:`phasefield.data.MorphologicalTokenizer.structure` gives. The base
    numbered ``bases`` is that of an affix without one.

    Args:
        bases: of the vocabulary: bytes, markers, roots and pieces.
        prefixes, suffixes: of the vocabulary, none not counted.
        dim: complex channels.
        std: of each part of a root's vector at the start.
        affix_std: of a at the start; the origin's default.
    """

    def __init__(
        self,
        bases: int,
        prefixes: int,
        suffixes: int,
        dim: int,
        *,
        std: float = 0.02,
        affix_std: float = 0.01,
    ) -> None:
        super().__init__()
        if min(prefixes, suffixes) < 0:
            raise ValueError(f"prefixes and suffixes are {prefixes} and {suffixes}; neither may be below 0.")
        self.base = PhaseEmbedding(bases + 1, dim, std=std)
        self.prefix = _affixes(prefixes, dim, affix_std)
        self.suffix = _affixes(suffixes, dim, affix_std)

    def forward(self, rows: Tensor) -> Tensor:
        """Rows (prefix, base, suffix), int64 ``[…, 3]`` → ``[…, dim, 2]``."""
        prefix, base, suffix = rows.unbind(-1)
        # Both turns in one: angles add, whatever the order.
        turn = phase_product(cayley(self.prefix(prefix)), cayley(self.suffix(suffix)))
        z = self.base(base)
        return phase_product(z, turn.to(z.dtype))


class MorphologicalHeads(nn.Module):
    """Predicts the next row, its root and its affixes each by a linear map of the real features.

    Args:
        bases, prefixes, suffixes, dim: as :class:`MorphologicalEmbedding` takes them.
        affix_weight: of the affixes' losses; the origin's.
    """

    def __init__(
        self, bases: int, prefixes: int, suffixes: int, dim: int, *, affix_weight: float = 0.3
    ) -> None:
        super().__init__()
        self.prefix = nn.Linear(2 * dim, prefixes + 1, bias=False)
        self.base = nn.Linear(2 * dim, bases + 1, bias=False)
        self.suffix = nn.Linear(2 * dim, suffixes + 1, bias=False)
        self.affix_weight = affix_weight
        for head in (self.prefix, self.base, self.suffix):
            nn.init.normal_(head.weight, std=0.02)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features ``[…, dim, 2]`` → logits of prefix, base and suffix, ``[…, count]`` each."""
        features = x.flatten(-2)
        return self.prefix(features), self.base(features), self.suffix(features)

    def loss(self, x: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """``CE(base) + affix_weight · (CE(prefix) + CE(suffix))``, without the logits of the bases.

        The weighted sum is what training minimises. The plain sum of the three terms is the row's negative
        log-likelihood (its parts taken as independent): that, and not the total, makes a perplexity.

        Args:
            x: features ``[…, dim, 2]``.
            rows: what follows them, int64 ``[…, 3]``.

        Returns:
            ``(total, terms)``: terms are the cross-entropies ``base``, ``prefix`` and ``suffix``, in nats.
        """
        features = x.flatten(-2)
        prefix, base, suffix = rows.unbind(-1)
        terms = {
            "base": linear_cross_entropy(features, self.base.weight, base),
            "prefix": linear_cross_entropy(features, self.prefix.weight, prefix),
            "suffix": linear_cross_entropy(features, self.suffix.weight, suffix),
        }
        total = terms["base"] + self.affix_weight * (terms["prefix"] + terms["suffix"])
        return total, terms


def _affixes(count: int, dim: int, std: float) -> nn.Embedding:
    """Each affix's a, ``[count + 1, dim]``; row 0 is none's: 0, and gets no gradient."""
    affixes = nn.Embedding(count + 1, dim, padding_idx=0)
    with torch.no_grad():
        affixes.weight.normal_(std=std)
        affixes.weight[0] = 0
    return affixes
