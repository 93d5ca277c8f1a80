"""Passes until each sequence of a batch has stopped, whatever its batch-mates do."""

import torch
from torch import Tensor

from .core import ThinkingCore

FIRST_STOP = 3
"""Index of the first pass after which a change of the carried state may stop a sequence; the origin's."""
CONVERGED = 1e-4
"""Largest change, and largest difference of changes a period apart, that counts as none; the origin's."""
DECAYED = 1e-2
"""Mean of the last five changes under which shrinking changes have shrunk enough; the origin's."""
LOOK_EVERY = 4
"""Passes between looks at who has stopped. On a GPU a look waits for the device."""

_HISTORY = 6


@torch.no_grad()
def think(core: ThinkingCore, projected: Tensor, max_iterations: int) -> tuple[Tensor, Tensor]:
    """Iterate until every sequence has stopped by its own changes; what it answers is fixed then.

    With ``d_k = mean |h_{k+1} − h_k|`` over a sequence, it stops after pass k at the first of

    - convergence: ``d_k ≤ 1e-4``;
    - periodicity: the last three changes differ from the three before by less than 1e-4 on average;
    - decay: of the last five changes the second and the third are each under 0.95 of the one before, and
      the mean of the five is under 1e-2;
    - halting: by its λ, averaged over its tokens before the sigmoid, it has stopped with probability ½;
    - the cap, ``max_iterations`` passes;

    the first three from the fourth pass on. Stopped sequences leave the batch at every fourth pass; until
    then they are computed on and not read.

    Args:
        core: not causal.
        projected: what ``core.project`` gave, ``[B, T, D]``.
        max_iterations: at least 1.

    Returns:
        ``(z, passes)``: each sequence's last ``[B, T, D]``, and int64 ``[B]``.
    """
    batch = projected.shape[0]
    answers, passes = (
        torch.zeros_like(projected),
        torch.zeros(batch, dtype=torch.long, device=projected.device),
    )
    rows = torch.arange(batch, device=projected.device)
    carried = torch.zeros_like(projected)
    answer = projected
    changes = projected.new_full((batch, _HISTORY), torch.inf, dtype=torch.float32)
    going_on = projected.new_ones(batch, dtype=torch.float32)
    active = torch.ones(batch, dtype=torch.bool, device=projected.device)
    for number in range(max_iterations):
        z, following = core.iterate(projected, carried)
        change = (following - carried).abs().float().mean((1, 2))
        changes = torch.cat([changes[:, 1:], change.unsqueeze(1)], dim=1)
        going_on = going_on * torch.sigmoid(-halting_logits(core, z))
        carried = following.to(carried.dtype)
        answer = torch.where(active[:, None, None], z.to(answer.dtype), answer)
        passes[rows] += active
        active = active & (going_on > 0.5)
        if number >= FIRST_STOP:
            active = active & ~settled(changes)
        if (number + 1) % LOOK_EVERY == 0:
            answers[rows] = answer
            keep = active.nonzero().squeeze(1)
            if not len(keep):
                return answers, passes
            if len(keep) < len(rows):
                rows, projected, carried, answer, changes, going_on, active = (
                    part[keep] for part in (rows, projected, carried, answer, changes, going_on, active)
                )
    answers[rows] = answer
    return answers, passes


def halting_logits(core: ThinkingCore, z: Tensor) -> Tensor:
    """The logit of λ of whole sequences: ``[…, T, D]`` → ``[…]`` float32."""
    return core.halting(z).squeeze(-1).float().mean(-1)


def settled(changes: Tensor) -> Tensor:
    """Which sequences stop by their last six changes ``[B, 6]``, newest last, ``inf`` where none was."""
    converged = changes[:, -1] <= CONVERGED
    # Before there are six changes, inf − inf or inf: no comparison with it holds.
    periodic = (changes[:, 3:] - changes[:, :3]).abs().mean(1) < CONVERGED
    five = changes[:, 1:]
    shrinking = ((five[:, 1:3] / five[:, :2]) < 0.95).all(1)
    return converged | periodic | (shrinking & (five.mean(1) < DECAYED))
