"""linoss_scan in PyTorch: the rotation's blocked form, and critical channels step by step in float64."""

import torch
from torch import Tensor

from ..packing import each_sequence
from ..rotation_scan import blocked as rotation
from .passes import Form, gradients
from .transition import Transition


def _by_matrix(
    pairs: Tensor,
    step: Transition,
    start: Tensor | None,
    out: Tensor,
    last: Tensor,
    cu_seqlens: Tensor | None,
    *,
    reverse: bool,
) -> None:
    channels = step.critical.nonzero().squeeze(1)
    if channels.numel() == 0:
        return
    matrix = step.matrix[channels].unflatten(-1, (2, 2))
    matrix = matrix.mT if reverse else matrix
    columns = matrix.unbind(-1)  # [channels, 2] each

    def turned(state: Tensor) -> Tensor:
        return state[..., :1] * columns[0] + state[..., 1:] * columns[1]

    def one(pairs: Tensor, out: Tensor, start: Tensor | None, last: Tensor) -> tuple[Tensor, ...]:
        picked = pairs[:, :, channels].double()
        state = torch.zeros_like(last[:, channels], dtype=torch.float64)
        if start is not None:
            state = start[:, channels].double()
        states = []
        steps = picked.unbind(1)
        for t, pair in enumerate(reversed(steps) if reverse else steps):
            # In reverse the start, a gradient to the last state, joins the last step as it is.
            state = pair + (state if reverse and t == 0 else turned(state))
            states.append(state)
        if states:
            out[:, :, channels] = torch.stack(states[::-1] if reverse else states, dim=1).to(out.dtype)
            last[:, channels] = (turned(state) if reverse else state).to(last.dtype)
        return ()

    if cu_seqlens is None:
        one(pairs, out, start, last)
    else:
        each_sequence(cu_seqlens, (pairs, out), (start, last), one)


FORM = Form(rotation.forward, rotation.backward, _by_matrix, gradients)
