"""Sampling from a causal model, one token at a time in constant memory."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def filter_logits(logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Logits to sample from: scaled, then cut to the likeliest tokens, in a new tensor.

    Args:
        logits: ``[..., V]``.
        temperature: divides the logits; above 0.
        top_k: keep the k largest; 0 = all. Tokens tied with the k-th are kept too.
        top_p: then keep the likeliest tokens until their probability reaches p; the one that crosses p is
            kept, so at least one always is. 1 = all.

    Returns:
        ``[..., V]`` float32, ``-inf`` where a token is cut.
    """
    # Counted from the largest: then dividing by a tiny temperature cannot overflow upwards.
    logits = logits.float()
    logits = (logits - logits.amax(-1, keepdim=True)) / temperature
    if 0 < top_k < logits.shape[-1]:
        smallest_kept = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < smallest_kept, -math.inf)
    if top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        probability = ordered.softmax(-1)
        before = probability.cumsum(-1) - probability
        beyond = before >= top_p
        logits = logits.masked_fill(beyond.scatter(-1, order, beyond), -math.inf)
    return logits


def sample(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw one token for each row of logits ``[B, V]``: ``[B]`` int64; temperature 0 takes the likeliest."""
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = filter_logits(logits, temperature, top_k, top_p).softmax(-1)
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(-1)


def check_sampling(temperature: float, top_k: int, top_p: float) -> None:
    """Refuse what :func:`sample` cannot take.

    Raises:
        ValueError: a value out of range.
    """
    if not 0 <= temperature < math.inf:
        raise ValueError(
            f"temperature is {temperature}; it must be at least 0 (0 = the likeliest) and finite."
        )
    if top_k < 0:
        raise ValueError(f"top_k is {top_k}; it must be at least 0 (0 = off).")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}; it must be above 0 and at most 1 (1 = off).")


_PASS = 4096
"""Tokens read at once: the logits of many more would fill the memory."""


class Decoding:
    """A text that a causal model reads and goes on with, in constant memory.

    What is read goes through the model in passes of 4,096 tokens, what is drawn through its step; the state
    is all that is kept of the text.

    Args:
        model: offers ``model(tokens, state)`` and ``model.step(token, state)``; put it in evaluation mode.
        options: further ones of these two, of models that have such (the field's perturbation).

    Attributes:
        state: the model's, of what went through it; None before the first draw.
    """

    def __init__(self, model: nn.Module, **options: Any) -> None:
        self._model, self._options = model, options
        self.state: Any = None
        self._unread: Tensor | None = None

    def read(self, tokens: Tensor) -> None:
        """Append tokens ``[B, T]``; the model reads them when the next one is drawn."""
        self._unread = tokens if self._unread is None else torch.cat([self._unread, tokens], dim=1)

    def learn(self) -> None:
        """Nothing: this text is read and written only, see :class:`LearningDecoding`."""

    @torch.inference_mode()
    def draw(
        self,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The next token ``[B]`` of the text, which is appended to it.

        Raises:
            ValueError: nothing has been read yet.
        """
        if self._unread is None:
            raise ValueError("the text is empty; read at least one token before drawing.")
        if self.state is not None and self._unread.shape[1] == 1:
            logits, self.state = self._model.step(self._unread[:, 0], self.state, **self._options)
        else:
            for piece in self._unread.split(_PASS, dim=1):
                logits, self.state = self._model(piece, self.state, **self._options)
            logits = logits[:, -1]
        token = sample(logits, temperature, top_k, top_p, generator)
        self._unread = token.unsqueeze(1)
        return token


class LearningDecoding(Decoding):
    """A text that a model goes on with while it learns from it: the prompt, and then each token it drew.

    Every token is first predicted and then learnt. The state is that before the last token, which cannot be
    learnt until the next one is there: it is read twice.

    Args:
        model: also offers ``learn_`` (:class:`~phasefield.models.Field`).
        rate: of learning.
        options: as :class:`Decoding`'s.
    """

    def __init__(self, model: nn.Module, rate: float, **options: Any) -> None:
        super().__init__(model, **options)
        self._rate = rate

    @torch.inference_mode()
    def learn(self) -> None:
        """Learn what was read or drawn since the last time; :meth:`draw` does so before it draws."""
        if self._unread is None or self._unread.shape[1] < 2:
            return
        names = self._options.keys() & {"perturbation", "generator"}
        options = {name: self._options[name] for name in names}
        before, after = self._unread[:, :-1], self._unread[:, 1:]
        self.state = self._model.learn_(before, after, self.state, rate=self._rate, **options).state
        self._unread = self._unread[:, -1:]

    @torch.inference_mode()
    def draw(
        self,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The next token ``[B]`` of the text, which is appended to it.

        Raises:
            ValueError: nothing has been read yet.
        """
        self.learn()
        read, state = self._unread, self.state
        token = super().draw(temperature, top_k, top_p, generator)
        self._unread, self.state = torch.cat([read, token.unsqueeze(1)], dim=1), state
        return token


def stream_tokens(
    model: nn.Module,
    prompt: Tensor,
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Continue prompts, yielding each new token ``[B]`` as it is drawn.

    The prompt goes through the model in passes of 4,096 tokens; from then on a step sees one token and the
    state, so time a token and memory stay the same however long the text grows.

    Args:
        model: offers ``model(tokens, state)`` and ``model.step(token, state)``; put it in evaluation mode.
        prompt: int64 ``[B, T]`` with T at least 1, on the model's device.
        max_new_tokens: how many to draw, at least 0.
        temperature: 1 samples from the model's distribution, less is more cautious, 0 takes the likeliest.
        top_k: see :func:`filter_logits`.
        top_p: see :func:`filter_logits`.
        generator: source of randomness, on the model's device; torch's default if None.

    Raises:
        ValueError: an argument out of range.
    """
    if prompt.ndim != 2 or prompt.shape[1] < 1:
        raise ValueError(f"prompt has shape {list(prompt.shape)}; allowed is [B, T] with T at least 1.")
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; it must be at least 0.")
    check_sampling(temperature, top_k, top_p)
    decoding = Decoding(model)
    decoding.read(prompt)
    for _ in range(max_new_tokens):
        yield decoding.draw(temperature, top_k, top_p, generator)
