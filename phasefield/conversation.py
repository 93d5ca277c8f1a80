"""A text that a person and a model write in turns."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .data import TextStream, Tokenizer
from .generation import Decoding
from .sampling import SamplingFlags


class Conversation:
    """The text so far is what stands on the screen: every turn begins on a line of its own.

    A causal model keeps of the text its state alone, whatever its length; another one is given the whole text
    at each turn.

    Args:
        model: in evaluation mode.
        tokenizer: of the model.
        device: of the model.

    Attributes:
        causal: whether the model writes token after token.
        at_line_start: whether the text is empty or ends with a line break.
    """

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, device: torch.device) -> None:
        self._model, self._tokenizer, self._device = model, tokenizer, device
        self.causal = hasattr(model, "step")
        self._line_break = "\n" if _can_encode(tokenizer, "\n") else ""
        self.reset()

    def reset(self) -> None:
        """Forget the text."""
        self._decoding = Decoding(self._model)
        self._text = torch.empty(1, 0, dtype=torch.int64, device=self._device)
        self.at_line_start = True

    def say(self, line: str) -> None:
        """Append a line to the text.

        Raises:
            ValueError: characters outside the vocabulary, or nothing at all; the text stays as it was.
        """
        self._tokenizer.encode(line)  # alone first: a complaint counts from the line's own beginning
        start = "" if self.at_line_start else self._line_break
        ids = self._tokenizer.encode(start + line + self._line_break).to(self._device).unsqueeze(0)
        if not ids.shape[1]:
            raise ValueError("there is nothing to say.")
        self._append(ids)
        self.at_line_start = True

    def answer(self, sampling: SamplingFlags, generator: torch.Generator) -> Iterator[str]:
        """Go on with the text, yielding pieces of it as they come.

        A causal model may be stopped between two pieces: what was yielded is part of the text. Another one
        yields the whole answer at once.

        Raises:
            ValueError: what the model's ``complete`` refuses.
        """
        text = TextStream(self._tokenizer)
        for token in self._tokens(sampling, generator):
            piece = text.push(token)
            self.at_line_start = piece.endswith("\n") if piece else False
            yield piece
        yield text.finish()

    def _tokens(self, sampling: SamplingFlags, generator: torch.Generator) -> Iterator[int]:
        if self.causal:
            for _ in range(sampling.max_new_tokens):
                yield self._decoding.draw(**sampling.options, generator=generator).item()
        else:
            with torch.inference_mode():
                answer = self._model.complete(
                    self._text, sampling.max_new_tokens, **sampling.options, generator=generator
                )
            self._append(answer)
            yield from answer[0].tolist()

    def _append(self, ids: Tensor) -> None:
        if self.causal:
            self._decoding.read(ids)
        else:
            self._text = torch.cat([self._text, ids], dim=1)


def _can_encode(tokenizer: Tokenizer, text: str) -> bool:
    try:
        tokenizer.encode(text)
    except ValueError:
        return False
    return True
