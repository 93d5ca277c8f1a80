"""gravity_field in fast PyTorch: tiles of pairs that stay in the cache, and matrix products around them.

A tile of ``ρ_ij = |s_j − x_i|² + ε²`` is one product, of rows ``[x, |x|², 1]`` with ``[−2s, 1, |s|² + ε²]``.
The force ``F_i = g (Σ_j w_ij m_j s_j − x_i Σ_j w_ij m_j)``, ``w = ρ^{-3/2}``, is another: its two sums are
the columns of a product with ``[m s, m]``. Tiles in the future or outside the window are skipped.

Where a pair is near, both products cancel (see the public function): such pairs are taken out of the tile
(ρ = ∞, so w = 0), listed, and their differences formed one by one. Finding them reads one number of a tile.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import state_dtype

NEAR = 2.0**-6
"""A pair is near if ``|s − x|² + ε²`` is below this share of ``|x|² + |s|²``."""

_TILE = 1 << 18  # pairs: 1 MB in float32
_ROWS = 256  # points of a tile, where there are as many
_LISTED = 1 << 20  # numbers of differences that are formed at a time


class Options(NamedTuple):
    """Which pairs there are, and their softening: point i stands ``before`` tokens after the first source."""

    softening: float
    causal: bool
    before: int
    window: int | None


class _Tile(NamedTuple):
    """Batches, points and sources of a tile, as slices."""

    batch: slice
    points: slice
    sources: slice


def forward(
    x: Tensor,
    mass: Tensor | None,
    source: Tensor | None,
    strength: float,
    softening: float,
    causal: bool,
    window: int | None,
) -> Tensor:
    """The force on every point; arguments as in the public function."""
    points, sources, masses, options = _prepared(x, mass, source, softening, causal, window)
    tiles = _Tiles(points, sources, options)
    weighed = _with_column(sources * masses, masses)
    total = torch.zeros_like(_with_one(points))
    for tile, rho in tiles:
        near = tiles.take_near_pairs(tile, rho)
        weight = rho.rsqrt_().pow_(3)
        total[tile.batch, tile.points].baddbmm_(weight, weighed[tile.batch, tile.sources])
        for pair in near:
            pull = masses[pair.source] * pair.rho.pow(-1.5)
            _add_by_row(total[..., :-1], pair.point, pull * pair.difference)
    force = total[..., :-1].sub_(points * total[..., -1:]) * strength
    return force.to(x.dtype)


def backward(
    grad: Tensor,
    x: Tensor,
    mass: Tensor | None,
    source: Tensor | None,
    strength: float,
    softening: float,
    causal: bool,
    window: int | None,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients to x, mass and source, those that are needed.

    With G_i = dL/dF_i, d_ij = s_j − x_i, ρ = |d|² + ε², w = ρ^{-3/2}, a_ij = G_i·d_ij, c = 3 a w / ρ:
      dL/dd_ij = g m_j q_ij,   q_ij = w_ij G_i − c_ij d_ij        because ∂(w d)/∂d = w (1 − 3 d dᵀ / ρ)
      dx_i = −g Σ_j m_j q_ij = g (Σ_j c_ij m_j s_j − x_i Σ_j c_ij m_j − G_i Σ_j w_ij m_j)
      ds_j =  g m_j Σ_i q_ij = g m_j (Σ_i w_ij G_i + Σ_i c_ij x_i − s_j Σ_i c_ij)
      dm_j =  g Σ_i w_ij a_ij
    Where the points are their own sources, dx is the sum of both.
    """
    points, sources, masses, options = _prepared(x, mass, source, softening, causal, window)
    for_x, for_mass, for_source = needs
    for_source = for_source or (for_x and source is None)
    tiles = _Tiles(points, sources, options)
    g = grad.to(points.dtype)
    # [3 G, −3 G·x] with [s, 1] is 3 a.
    along = _with_column(3 * g, -3 * (g * points).sum(-1, keepdim=True))
    points_one, sources_one = _with_one(points), _with_one(sources)
    weighed = _with_column(sources * masses, masses)
    at_points, pulls = torch.zeros_like(points_one), torch.zeros_like(along[..., -1:])
    at_sources, work = torch.zeros_like(sources_one), torch.zeros_like(masses)
    for tile, rho in tiles:
        near = tiles.take_near_pairs(tile, rho)
        b, i, j = tile
        root = rho.rsqrt_()
        weight = torch.pow(root, 3, out=tiles.scratch(1, root.shape))
        c = torch.bmm(along[b, i], sources_one[b, j].mT, out=tiles.scratch(2, root.shape)).mul_(weight)
        if for_mass:
            work[b, j] += c.sum(1).unsqueeze(-1)
        c.mul_(root).mul_(root)
        if for_x:
            at_points[b, i].baddbmm_(c, weighed[b, j])
            pulls[b, i].baddbmm_(weight, masses[b, j])
        if for_source:
            at_sources[b, j].baddbmm_(c.mT, points_one[b, i])
            at_sources[b, j, :-1].baddbmm_(weight.mT, g[b, i])
        for pair in near:
            w = pair.rho.pow(-1.5)
            wa = 3 * w * (g[pair.point] * pair.difference).sum(-1, keepdim=True)
            q = w * g[pair.point] - wa / pair.rho * pair.difference
            _add_by_row(work, pair.source, wa)
            _add_by_row(at_sources[..., :-1], pair.source, q)
            _add_by_row(at_points[..., :-1], pair.point, q.mul_(-masses[pair.source]))
    grad_x = at_points[..., :-1] - points * at_points[..., -1:] - g * pulls if for_x else None
    grad_source = masses * (at_sources[..., :-1] - sources * at_sources[..., -1:]) if for_source else None
    grad_mass = work[..., 0] * (strength / 3) if for_mass else None
    if source is None:
        grad_x = grad_x + grad_source if for_x else None
        grad_source = None
    return (
        None if grad_x is None else (grad_x * strength).to(x.dtype),
        None if grad_mass is None else grad_mass.to(mass.dtype),
        None if grad_source is None else (grad_source * strength).to(x.dtype),
    )


def _prepared(
    x: Tensor, mass: Tensor | None, source: Tensor | None, softening: float, causal: bool, window: int | None
) -> tuple[Tensor, Tensor, Tensor, Options]:
    # Points and sources in the dtype of sums, masses [B, S, 1].
    points = x.to(state_dtype(x)).contiguous()
    sources = points if source is None else source.to(points.dtype).contiguous()
    if mass is None:
        masses = sources.new_ones((*sources.shape[:2], 1))
    else:
        masses = mass.to(points.dtype).unsqueeze(-1).contiguous()
    before = 0 if source is None else source.shape[1]
    return points, sources, masses, Options(softening, causal or source is not None, before, window)


class _Pairs(NamedTuple):
    """Near pairs: (batch, point) and (batch, source) of each, ``d`` ``[P, D]`` and ``ρ`` ``[P, 1]``."""

    point: tuple[Tensor, Tensor]
    source: tuple[Tensor, Tensor]
    difference: Tensor
    rho: Tensor


class _Tiles:
    """The tiles of ρ one after the other, in memory that they share."""

    def __init__(self, points: Tensor, sources: Tensor, options: Options) -> None:
        self._points, self._sources, self._options = points, sources, options
        self._norms = points.square().sum(-1, keepdim=True), sources.square().sum(-1, keepdim=True)
        self._left = _with_one(_with_column(points, self._norms[0]))
        self._right = _with_column(_with_one(-2 * sources), self._norms[1] + options.softening**2)
        self._scratch: dict[int, Tensor] = {}

    def scratch(self, number: int, shape: torch.Size) -> Tensor:
        """Uninitialised memory of a tile; the same again for the same number."""
        if number not in self._scratch or self._scratch[number].numel() < shape.numel():
            self._scratch[number] = self._points.new_empty(shape.numel())
        return self._scratch[number][: shape.numel()].view(shape)

    def __iter__(self) -> Iterator[tuple[_Tile, Tensor]]:
        """Each tile with its ρ, infinite where there is no pair."""
        batch, length, _ = self._points.shape
        count = self._sources.shape[1]
        rows = max(1, min(length, _ROWS))
        columns = max(1, min(count, _TILE // rows))
        batches = max(1, _TILE // (rows * columns))
        for b in range(0, batch, batches):
            for i in range(0, length, rows):
                end = min(i + rows, length)
                low, high = self._reach(i, end)
                for j in range(low, high, columns):
                    tile = _Tile(
                        slice(b, min(b + batches, batch)), slice(i, end), slice(j, min(j + columns, high))
                    )
                    yield tile, self._rho(tile)

    def _reach(self, begin: int, end: int) -> tuple[int, int]:
        # The sources that any of these points may be pulled by.
        _, causal, before, window = self._options
        count = self._sources.shape[1]
        window = count + end if window is None else window
        return max(0, begin + before - window), min(count, end + before + (-1 if causal else window))

    def _rho(self, tile: _Tile) -> Tensor:
        b, i, j = tile
        left, right = self._left[b, i], self._right[b, j]
        rho = self.scratch(0, torch.Size((*left.shape[:2], right.shape[1])))
        torch.bmm(left, right.mT, out=rho).clamp_min_(self._options.softening**2)
        _, causal, before, window = self._options
        nearest, farthest = i.start + before - (j.stop - 1), i.stop - 1 + before - j.start
        edge = nearest <= 0 and (causal or farthest >= 0)
        if window is not None:
            edge = edge or farthest > window or -nearest > window
        if edge:
            ago = torch.arange(i.start, i.stop, device=rho.device).unsqueeze(1) + before
            ago = ago - torch.arange(j.start, j.stop, device=rho.device)
            absent = ago <= 0 if causal else ago == 0
            if window is not None:
                absent |= ago.abs() > window
            rho.masked_fill_(absent, torch.inf)
        return rho

    def take_near_pairs(self, tile: _Tile, rho: Tensor) -> Iterator[_Pairs]:
        """The near pairs of a tile, a few at a time; in ρ they become infinite."""
        b, i, j = tile
        at_points, at_sources = self._norms[0][b, i], self._norms[1][b, j].mT
        if rho.amin() >= NEAR * (at_points.amax() + at_sources.amax()):
            return iter(())
        near = rho < NEAR * (at_points + at_sources)
        where = near.nonzero()
        if not where.numel():
            return iter(())
        rho.masked_fill_(near, torch.inf)
        return self._differences(where + where.new_tensor([b.start, i.start, j.start]))

    def _differences(self, where: Tensor) -> Iterator[_Pairs]:
        for some in where.split(max(1, _LISTED // max(1, self._points.shape[2]))):
            batch, i, j = some.unbind(1)
            difference = self._sources[batch, j] - self._points[batch, i]
            rho = difference.square().sum(-1, keepdim=True) + self._options.softening**2
            yield _Pairs((batch, i), (batch, j), difference, rho)


def _with_column(x: Tensor, column: Tensor) -> Tensor:
    return torch.cat([x, column], dim=-1)


def _with_one(x: Tensor) -> Tensor:
    return torch.nn.functional.pad(x, (0, 1), value=1.0)


def _add_by_row(total: Tensor, place: tuple[Tensor, Tensor], values: Tensor) -> None:
    # total[place] += values. Places repeat: sorted, each is summed once, in the same order on every device.
    rows = total.shape[1]
    row, order = (place[0] * rows + place[1]).sort(stable=True)
    row, counts = row.unique_consecutive(return_counts=True)
    sums = torch.segment_reduce(values[order], "sum", lengths=counts, axis=0)
    total[row // rows, row % rows] += sums
