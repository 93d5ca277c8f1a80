"""The text that a run trains on, in tokens, and how many steps a number of passes over it are."""

from dataclasses import replace

from torch import Tensor

from ..data import Corpus, Tokenizer
from .flags import RunFlags


def training_tokens(
    flags: RunFlags, corpus: Corpus, tokenizer: Tokenizer, tokens_per_step: int
) -> tuple[RunFlags, Tensor]:
    """What a run reads: its training text, cut to ``max_train_samples``, and its flags in steps.

    Args:
        flags: of the run.
        corpus: whose training part is read.
        tokenizer: of the run.
        tokens_per_step: that all processes read in a step.

    Returns:
        ``(flags, ids)``: the flags with ``epochs`` counted in ``steps``, at least one, and a warm-up no
        longer than these; the tokens, int64 ``[N]``.

    Raises:
        ValueError: the text cannot be written in the tokenizer's tokens.
    """
    run = flags.run
    ids = tokenizer.encode(corpus.train)
    if run.max_train_samples is not None:
        ids = ids[: run.max_train_samples * run.seq_len + 1]
    if run.epochs is not None:
        steps = max(1, round(run.epochs * (len(ids) - 1) / tokens_per_step))
        run = replace(run, epochs=None, steps=steps, warmup_steps=min(run.warmup_steps, steps))
    return replace(flags, run=run), ids
