"""What hebbian_scan's forms are given."""

from typing import NamedTuple

from torch import Tensor


class Inputs(NamedTuple):
    """The op's inputs, checked, in its operator's order; complex numbers are a last axis of 2.

    A form has ``forward(inputs)``, which gives ``(y, final_state, kept)``, and ``backward(grad_y, grad_final,
    kept, inputs)``, which gives the gradients to q, k, v, log_decay, beta (None for those not given) and
    initial_state.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    log_decay: Tensor | None
    beta: Tensor | None
    initial_state: Tensor | None
    cu_seqlens: Tensor | None
    delta: bool

    @property
    def sequences(self) -> int:
        """How many have a state of their own."""
        return self.q.shape[0] if self.cu_seqlens is None else self.cu_seqlens.shape[0] - 1

    @property
    def state_shape(self) -> tuple[int, ...]:
        """``[B or S, H, V, K(, 2)]``."""
        return self.sequences, self.q.shape[2], self.v.shape[3], *self.q.shape[3:]
