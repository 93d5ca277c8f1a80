"""How English writes a stem and a suffix together: ``happy`` + ``ness`` is ``happiness``.

A suffix is its letters, and before them a sign where the writing is not the regular one: ``+`` writes the two
side by side (``singe``, ``+ing``), ``=`` doubles the stem's last letter (``control``, ``=ed``), ``-`` drops
it (``italy``, ``-an``). :func:`join` is a function of stem and suffix alone, so what it writes can always be
written again; :func:`stems` looks for what it could have been given.
"""

import re
from collections.abc import Iterator

_VOWELS = "aeiou"
_SIBILANT = ("s", "x", "z", "ch", "sh")
_DOUBLING = re.compile(r"(?:[^aeiou]*|[^aeiou]*qu)[aeiou][bdgklmnprtvz]")
_SIGNS = "+=-"
_AFTER_Y = frozenset(["al", "an", "ial", "ic", "ical", "ism", "ist", "ite", "ize", "ise", "ous"])
"""Suffixes that can take a final y away."""


def join(stem: str, suffix: str) -> str:
    """The word of a stem and a suffix, both in small letters; either may be empty.

    Regular is: ``-s`` becomes ``-es`` after a sibilant and ``-ies`` for a consonant and y; before a vowel a
    silent e falls away, ``ie`` is y before i, and a word of one short syllable doubles its last letter; y
    after a consonant is i unless i follows; ``-ly`` is ``-ally`` after ``ic`` and melts with ``le`` and
    ``ll``.
    """
    if not stem or not suffix:
        return stem + suffix
    sign, letters = suffix[0], suffix[1:]
    if sign == "+":
        return stem + letters
    if sign == "=":
        return stem + stem[-1] + letters
    if sign == "-":
        return stem[:-1] + letters
    return _regular(stem, suffix)


def letters(suffix: str) -> str:
    """A suffix without its sign."""
    return suffix.lstrip(_SIGNS)


def stems(word: str, suffix: str) -> Iterator[tuple[str, str]]:
    """All ``(stem, suffix with its sign)`` that :func:`join` writes as this word, the regular ones first.

    Args:
        word: in small letters.
        suffix: letters only.
    """
    candidates = list(dict.fromkeys(stem for stem in _candidates(word, suffix) if stem))
    for sign in ("", *_SIGNS):
        for stem in candidates:
            # One writing a stem: a sign says only what the regular rules do not.
            needed = not sign or join(stem, suffix) != word
            allowed = sign != "-" or stem[-1] != "y" or suffix in _AFTER_Y
            if needed and allowed and join(stem, sign + suffix) == word:
                yield stem, sign + suffix


def _regular(stem: str, suffix: str) -> str:
    first = suffix[0]
    soft_y = stem[-1] == "y" and len(stem) > 2 and stem[-2] not in _VOWELS
    if suffix == "s":
        if soft_y:
            return stem[:-1] + "ies"
        return stem + ("es" if stem.endswith(_SIBILANT) else "s")
    if suffix == "ly":
        if stem.endswith("ic"):
            return stem + "ally"
        if stem.endswith("ll"):
            return stem + "y"
        if stem.endswith("le") and len(stem) > 3 and stem[-3] not in _VOWELS:
            return stem[:-1] + "y"
    if soft_y and first != "i":
        return stem[:-1] + "i" + suffix
    if first not in _VOWELS + "y":
        return stem + suffix
    if stem.endswith("ie") and first == "i":
        return stem[:-2] + "y" + suffix
    if stem[-1] == "e":
        silent = not stem.endswith(("ee", "oe", "ye"))
        keeps_sound = first in "ao" and stem.endswith(("ce", "ge"))
        return (stem[:-1] if (silent and not keeps_sound) or first == "e" else stem) + suffix
    return stem + (stem[-1] if _DOUBLING.fullmatch(stem) else "") + suffix


def _candidates(word: str, suffix: str) -> Iterator[str]:
    """Stems worth trying: what is left without the suffix, mended in each way the rules may have broken."""
    if not word.endswith(suffix):
        if suffix == "ly" and word.endswith("y"):
            yield from (word[:-1] + "e", word[:-1] + "l")
        return
    left = word[: len(word) - len(suffix)]
    yield left
    if len(left) < 2:
        return
    if suffix == "s":
        if left.endswith("ie"):
            yield left[:-2] + "y"
        if left.endswith("e"):
            yield left[:-1]
        return
    if suffix == "ly":
        yield from (word[:-1] + "e", word[:-1])
        if left.endswith("ical"):
            yield left[:-2]
    if left[-1] == "i":
        yield left[:-1] + "y"
    if suffix[0] in _VOWELS + "y":
        yield from (left + "e", left + "y", left + "a")
        if left[-1] == left[-2]:
            yield left[:-1]
        if left[-1] == "y":
            yield left[:-1] + "ie"
