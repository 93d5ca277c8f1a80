"""Crystal memory: next tokens, Hebbian traces of what followed which context, on a table of fixed size."""

import torch
from torch import Tensor, nn

from .golden import golden_frequencies
from .sites import SiteTable

_BOND, _TOKEN = golden_frequencies(2).tolist()
_FIRST_DISCOUNT = 0.75
"""Before anything was measured: the usual value of absolute discounting."""


class CrystalMemory(nn.Module):
    """What followed each context, written by Hebb's rule and read as probabilities.

    Each context phase has a site with its number of occurrences N and of distinct followers K, each pair of a
    context and its next token a bond with its number of occurrences c: the sparse form of the outer products
    ``post ⊗ pre`` of one-hot codes. Reading backs off from each context to its parent:

        ``p(v | context) = (max(c_v − D, 0) + D K p(v | parent)) / N``,    the parent's own p where N = 0

    with a discount D per kind of context that is measured, not chosen: ``n_1 / (n_1 + 2 n_2)``, of the
    numbers of bonds seen once and twice. The empty context's parent is uniform. Distributions are exact:
    they sum to 1, also when the table is full (a bond that finds no site is not counted in N).

    Args:
        vocab_size: V.
        parents: for each kind of context the kind it backs off to, −1 for the uniform distribution; a parent
            comes before its children.
        sites: sites of each of the two tables, a power of two.
        dtype: of the bonds' amplitudes, see :class:`~phasefield.layers.SiteTable`.

    Source: R. Kneser and H. Ney, "Improved backing-off for m-gram language modeling", 1995 (the discount).

    >>> crystal = CrystalMemory(3, parents=(-1,), sites=16)
    >>> context = torch.tensor([[5]])
    >>> every = torch.arange(3)[None]
    >>> crystal.read(context, every, crystal.evidence(context)).flatten().tolist()  # nothing is known yet
    [0.3333333432674408, 0.3333333432674408, 0.3333333432674408]
    >>> crystal.learn_(context.expand(8, 1), torch.tensor([0, 0, 0, 0, 0, 0, 1, 1]))
    >>> crystal.evidence(context).flatten().tolist()  # 8 occurrences of 2 kinds
    [8.0, 2.0]
    >>> p = crystal.read(context, every, crystal.evidence(context))
    >>> bool(p[0, 0] > p[0, 1] > p[0, 2] > 0), round(float(p.sum()), 6)
    (True, 1.0)
    """

    def __init__(
        self, vocab_size: int, parents: tuple[int, ...], sites: int, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        for kind, parent in enumerate(parents):
            if not -1 <= parent < kind:
                raise ValueError(f"parents[{kind}] is {parent}; it must be −1 or an earlier kind.")
        self.vocab_size, self.parents = vocab_size, parents
        self.contexts = SiteTable(sites, 2)
        self.bonds = SiteTable(sites, 1, dtype)
        self.register_buffer("rare", torch.zeros(len(parents), 2, dtype=torch.float64))

    @property
    def discounts(self) -> Tensor:
        """D of each kind of context, float32 ``[C]``."""
        once, twice = self.rare.unbind(1)
        return torch.where(once > 0, once / (once + 2 * twice), _FIRST_DISCOUNT).float()

    def evidence(self, phases: Tensor) -> Tensor:
        """N and K of contexts ``[…, C]``: float32 ``[…, C, 2]``."""
        return self.contexts.read(self.contexts.find(phases))

    def read(self, phases: Tensor, tokens: Tensor, evidence: Tensor) -> Tensor:
        """Probabilities of given next tokens.

        Args:
            phases: int64 ``[…, C]``, of the contexts.
            tokens: int64 ``[…, M]``, M candidates for the next token.
            evidence: ``[…, C, 2]``, of the contexts, see :meth:`evidence`.

        Returns:
            ``[…, M, C]``.
        """
        bonds = self._bond(phases.unsqueeze(-2), tokens.unsqueeze(-1))
        counts = self.bonds.read(self.bonds.find(bonds)).squeeze(-1)
        occurrences, kinds = evidence.unsqueeze(-3).unbind(-1)
        discounts = self.discounts
        kept = (counts - discounts).clamp_min(0)
        passed = discounts * kinds
        total = occurrences.clamp_min(1)
        levels: list[Tensor] = []
        for kind, parent in enumerate(self.parents):
            below = 1 / self.vocab_size if parent < 0 else levels[parent]
            own = (kept[..., kind] + passed[..., kind] * below) / total[..., kind]
            levels.append(torch.where(occurrences[..., kind] > 0, own, below))
        return torch.stack(levels, dim=-1)

    def learn_(
        self,
        phases: Tensor,
        tokens: Tensor,
        generator: torch.Generator | None = None,
        *,
        forget: bool = False,
    ) -> None:
        """Write one trace of each next token ``[…]`` under each of its contexts ``[…, C]``.

        Args:
            phases: of the contexts.
            tokens: that followed.
            generator: of stochastic rounding, for 16-bit bonds.
            forget: take back the traces that the same call wrote; exact for float32 bonds.
        """
        kinds = phases.shape[-1]
        bonds = self._bond(phases, tokens.unsqueeze(-1)).flatten()
        distinct, which, times = torch.unique(bonds, return_inverse=True, return_counts=True)
        sites = self.bonds.claim(distinct)
        times = -times if forget else times
        kind_of = torch.empty_like(distinct)
        kind_of[which] = torch.arange(kinds, device=phases.device).repeat(len(bonds) // kinds)
        before = self.bonds.read(sites).squeeze(-1)
        after = before + times
        stored = sites >= 0
        for column, count in enumerate((1, 2)):
            change = ((after == count).double() - (before == count).double()) * stored
            self.rare[:, column].index_add_(0, kind_of, change)
        self.bonds.add_(sites, times.float().unsqueeze(1), generator)

        context_of = torch.empty_like(distinct)
        context_of[which] = phases.flatten()
        distinct, which = torch.unique(context_of, return_inverse=True)
        change = torch.zeros(len(distinct), 2, device=phases.device)
        change[:, 0].index_add_(0, which, (times * stored).float())
        change[:, 1].index_add_(0, which, ((after > 0).float() - (before > 0).float()) * stored)
        self.contexts.add_(self.contexts.claim(distinct), change)

    @staticmethod
    def _bond(phases: Tensor, tokens: Tensor) -> Tensor:
        return phases * _BOND + (tokens + 1) * _TOKEN

    def extra_repr(self) -> str:
        return f"{self.vocab_size}, contexts={len(self.parents)}"
