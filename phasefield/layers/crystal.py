"""Crystal memory: next tokens, Hebbian traces of what followed which context, on a table of fixed size."""

import torch
from torch import Tensor, nn

from .golden import golden_frequencies
from .sites import SiteTable

_BOND, _TOKEN = golden_frequencies(2).tolist()
_FIRST_DISCOUNT = 0.75
"""Before anything was measured: the usual value of absolute discounting."""
_LOST = 1 / 32
"""How many traces, as a share of the sites, find none before others fade: of 1/16 to 1/256 the best in the
mean over tables of 2^18 to 2^22 sites (Tiny Shakespeare)."""


class CrystalMemory(nn.Module):
    """What followed each context, written by Hebb's rule and read as probabilities.

    Each context phase has a site with its number of occurrences N and of distinct followers K, each pair of a
    context and its next token a bond with its number of occurrences c: the sparse form of the outer products
    ``post ⊗ pre`` of one-hot codes. Reading backs off from each context to its parent:

        ``p(v | context) = (max(c_v − D, 0) + D K p(v | parent)) / N``,    the parent's own p where N = 0

    with a discount D per kind of context that is measured, not chosen: ``n_1 / (n_1 + 2 n_2)``, of the
    numbers of bonds seen once and twice. The empty context's parent is uniform. Distributions are exact:
    they sum to 1, also when the table is full (a bond that finds no site is not counted in N); then the
    weakest traces fade.

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
        # Of each bond its context's site, of each context its kind: whose N and K merging and fading change.
        self.register_buffer("owners", torch.zeros(sites, dtype=torch.int32))
        self.register_buffer("kinds", torch.zeros(sites, dtype=torch.int8))
        self.register_buffer("fadings", torch.zeros((), dtype=torch.int64))
        self.register_buffer("lost", torch.zeros((), dtype=torch.int64))  # since the last fading
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
            forget: take back the traces that the same call wrote, as far as they have not faded; exact for
                float32 bonds.
        """
        bonds = self._bond(phases, tokens.unsqueeze(-1)).flatten()
        distinct, which, times = torch.unique(bonds, return_inverse=True, return_counts=True)
        context_of = torch.empty_like(distinct)
        context_of[which] = phases.flatten()
        contexts, place = torch.unique(context_of, return_inverse=True)
        kinds = torch.arange(phases.shape[-1], device=phases.device)
        kind_of = torch.empty_like(contexts)
        kind_of[place[which]] = kinds.repeat(len(bonds) // len(kinds))
        if forget:
            homes = self.contexts.find(contexts)
            sites = torch.where(homes[place] >= 0, self.bonds.find(distinct), -1)
            self._add_(sites, -times, homes, place, kind_of, generator)
            return
        homes = self.contexts.claim(contexts)
        owned = homes[place] >= 0
        sites = torch.full_like(distinct, -1)
        sites[owned] = self.bonds.claim(distinct[owned])
        self._add_(sites, times, homes, place, kind_of, generator)
        self.lost += (sites < 0).sum()
        if self.lost > _LOST * len(self.bonds.tags):
            self.fade_()

    def merge_(self, other: "CrystalMemory", generator: torch.Generator | None = None) -> None:
        """Take over all traces of another crystal: as if this one had learnt what the other has.

        That is exact in float32 and while there are sites for all of them.

        Args:
            other: of as many sites, tokens and kinds of contexts.
            generator: of stochastic rounding, for 16-bit bonds.

        Raises:
            ValueError: the other is not alike.
        """
        for name, mine, its in (
            ("vocab_size", self.vocab_size, other.vocab_size),
            ("parents", self.parents, other.parents),
            ("sites", len(self.bonds.tags), len(other.bonds.tags)),
        ):
            if mine != its:
                raise ValueError(f"other has {name} {its}; it must have {mine}, as this crystal.")
        homes = self.contexts.claim_of(other.contexts)
        theirs = other.bonds.tags.nonzero().squeeze(1)
        place = other.owners[theirs]
        owned = homes[place] >= 0
        sites = torch.where(owned, self.bonds.claim_of(other.bonds)[theirs], -1)
        times = other.bonds.read(theirs).squeeze(-1)
        self._add_(sites, times, homes, place, other.kinds.long(), generator)

    def fade_(self) -> None:
        """Make room: of each quarter of the traces in turn the weakest are lost, at least a quarter of these.

        Their contexts' N and K do not count them any more, the discounts do. Contexts without traces go too.
        """
        there = self.bonds.tags.nonzero().squeeze(1)
        there = there[(self.bonds.tags[there] >> 7) % 4 == self.fadings % 4]
        self.fadings += 1
        self.lost.zero_()
        if not len(there):
            return
        strength = self.bonds.read(there).squeeze(1)
        weak = strength <= strength.kthvalue((len(there) + 3) // 4).values
        owners, place = self.owners[there[weak]].unique(return_inverse=True)
        # A bond that was forgotten has strength 0 and is not counted in K.
        lost = torch.stack([strength[weak], (strength[weak] > 0).float()], dim=1)
        self.contexts.add_(owners, lost.new_zeros(len(owners), 2).index_add_(0, place, lost, alpha=-1))
        self.bonds.free_(there[weak])
        self.contexts.free_(owners[self.contexts.amplitudes[owners, 1] <= 0])

    def _add_(
        self,
        sites: Tensor,
        times: Tensor,
        homes: Tensor,
        place: Tensor,
        kind_of: Tensor,
        generator: torch.Generator | None,
    ) -> None:
        """Traces of bonds at ``sites`` of the contexts at ``homes[place]``, of kinds ``kind_of[place]``."""
        before = self.bonds.read(sites).squeeze(-1)
        after = (before + times).clamp_min(0)
        stored = sites >= 0
        change = (after - before) * stored
        for column, count in enumerate((1, 2)):
            became = ((after == count).double() - (before == count).double()) * stored
            self.rare[:, column].index_add_(0, kind_of[place], became)
        self.bonds.add_(sites, change.unsqueeze(1), generator)
        self.owners[sites[stored]] = homes[place[stored]].int()
        self.kinds[homes[homes >= 0]] = kind_of[homes >= 0].to(torch.int8)
        sums = torch.zeros(len(homes), 2, device=sites.device)
        sums[:, 0].index_add_(0, place, change)
        sums[:, 1].index_add_(0, place, ((after > 0).float() - (before > 0).float()) * stored)
        self.contexts.add_(homes, sums)

    @staticmethod
    def _bond(phases: Tensor, tokens: Tensor) -> Tensor:
        return phases * _BOND + (tokens + 1) * _TOKEN

    def extra_repr(self) -> str:
        return f"{self.vocab_size}, contexts={len(self.parents)}"
