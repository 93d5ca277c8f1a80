"""A fixed judge of texts: an n-gram model of characters with Witten and Bell's smoothing."""

import math
from collections import Counter, defaultdict

ORDER = 6
LONGEST = 10_000_000
"""Characters of the training text that the judge reads, from its beginning."""


class Judge:
    """How likely a text is after the last ``order − 1`` characters before each of its own.

        ``P(c | h) = (n(hc) + t(h) · P(c | h')) / (n(h) + t(h))``

    with n(hc) how often c followed the context h in the training text, n(h) their sum, t(h) how many
    different characters followed it, and h' the context without its first character. Below the empty context
    all characters of the training text and one more, which stands for all others, are equally likely.

    Args:
        text: the training text.
        order: characters of the longest n-gram.

    Source: I. Witten and T. Bell, "The zero-frequency problem", 1991; the recursion is that of S. Chen and
    J. Goodman, "An empirical study of smoothing techniques for language modeling", 1998.
    """

    def __init__(self, text: str, order: int = ORDER) -> None:
        text = text[:LONGEST]
        self._order = order
        self._uniform = 1 / (len(set(text)) + 1)
        self._counts: Counter[str] = Counter()
        self._followed: Counter[str] = Counter()
        self._different: defaultdict[str, int] = defaultdict(int)
        for n in range(1, order + 1):
            counts = Counter(text[i : i + n] for i in range(len(text) - n + 1))
            self._counts |= counts
            for gram, count in counts.items():
                self._followed[gram[:-1]] += count
                self._different[gram[:-1]] += 1

    def probability(self, character: str, context: str) -> float:
        """``P(character | context)``, of which only the last ``order − 1`` characters count."""
        probability = self._uniform
        for length in range(min(len(context), self._order - 1) + 1):
            history = context[len(context) - length :]
            followed = self._followed.get(history, 0)
            if not followed:
                break  # a longer context was not seen either
            different = self._different[history]
            count = self._counts.get(history + character, 0)
            probability = (count + different * probability) / (followed + different)
        return probability

    def nats_per_character(self, text: str, before: str = "") -> float | None:
        """The mean of ``−ln P`` over a text that follows ``before``; None if the text is empty."""
        if not text:
            return None
        whole, begin = before + text, len(before)
        reach = self._order - 1
        return -sum(
            math.log(self.probability(whole[i], whole[max(0, i - reach) : i]))
            for i in range(begin, len(whole))
        ) / len(text)
