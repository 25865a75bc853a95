"""What a question says: its words, and what it asks about. Pure, and bounded for texts of any length."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from datetime import date as Date
from typing import Final

import msgspec

LONGEST_PIECE: Final = 110
"""Words of a piece. Longer texts are cut: their best piece counts, or length would drown what they say."""
MOST_AROUND: Final = 60
"""Words of a caption and a date that go with each piece; longer ones are cut into pieces themselves."""
MOST_READ: Final = 20_000
"""Characters of a question that are read."""
MOST_TERMS: Final = 64
"""Words that are looked up, the rarest first."""

_STOP_WORDS = """
    a about above after again against all also am an and any are aren as at be because been before being below between
    both but by can could couldn d did didn do does doesn doing don down during each either else few for from further
    get got had hadn has hasn have haven having he her here hers herself him himself his how i if in into is isn it its
    itself just ll let m ma me might more most mustn my myself no nor not now o of off on once only or other ought our
    ours ourselves out over own re s same shan she should shouldn so some such t than that the their theirs them
    themselves then there these they this those through to too under until up ve very was wasn we were weren what when
    where which while who whom why will with won would wouldn you your yours yourself yourselves
"""
_MONTHS = "january february march april may june july august september october november december"
_TIME_WORDS = """
    monday tuesday wednesday thursday friday saturday sunday yesterday today tomorrow tonight ago last next
    week weekend weeks month months year years day days
"""
STOP_WORDS: Final = frozenset(_STOP_WORDS.split())
MONTHS: Final = tuple(_MONTHS.split())
_TIMED: Final = frozenset([*MONTHS, *_TIME_WORDS.split()])
_NUMBERED = re.compile(r"\d{4}|\d{1,2}(?:st|nd|rd|th)")
_ASKS_WHEN = re.compile(
    r"\b(?:when|(?:what|which) (?:date|day|month|year|time)|how long|how many (?:days|weeks|months|years))\b",
    re.IGNORECASE,
)
_FIRST_PERSON = frozenset({"i", "me", "my", "mine", "myself"})
_WORD = re.compile(r"\w+")
_SEAM = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z]{2})")

Tokens = Callable[[str], Sequence[str]]
"""Cuts a text into words as the index keeps them: stemmed, in lower case."""


class Asked(msgspec.Struct, frozen=True):
    """What was read from a question. `words` are lower case, as written; `terms` are as the index keeps them."""

    words: frozenset[str]
    terms: tuple[str, ...]
    when: bool
    """Whether it asks for a time."""
    mine: bool
    """Whether the asker speaks of himself."""


def asked(text: str, tokens: Tokens) -> Asked:
    """Read a question. Never fails: a text without words has no terms."""
    text = text[:MOST_READ]
    spelled = segmented(text)
    words = _WORD.findall(spelled.lower())
    kept = [word for word in _WORD.findall(with_parts(spelled).lower()) if word not in STOP_WORDS]
    terms = tokens(" ".join(kept)) or tokens(spelled)
    return Asked(
        words=frozenset(words),
        terms=tuple(dict.fromkeys(terms)),
        when=_ASKS_WHEN.search(text) is not None,
        mine=not _FIRST_PERSON.isdisjoint(words),
    )


def names(asked: Asked, speaker: str) -> bool:
    """Whether the question names a speaker: a word of the name, in any case, that is not also a stop word."""
    return any(word in asked.words and word not in STOP_WORDS for word in _WORD.findall(speaker.lower()))


def timed(text: str) -> bool:
    """Whether a text holds a time expression."""
    words = _WORD.findall(text.lower())
    return not _TIMED.isdisjoint(words) or any(_NUMBERED.fullmatch(word) for word in words if word[0].isdecimal())


def pieces(text: str, speaker: str = "", caption: str = "", date: str = "") -> list[str]:
    """The text cut into pieces of at most `LONGEST_PIECE` words, each with who, when and the caption in words."""
    words = text.split()
    around = [*caption.split(), *spelled_date(date[:MOST_AROUND]).split()]
    if len(around) > MOST_AROUND:  # it is no caption but a text: repeated in each piece it would have no bound
        words, around = words + around, []
    cut = [words[at : at + LONGEST_PIECE] for at in range(0, len(words), LONGEST_PIECE)] or [[]]
    return [" ".join([*speaker.split()[:MOST_AROUND], *part, *around]) for part in cut]


def spelled_date(text: str) -> str:
    """`2023-05-08T…` as people write it: 8 may 2023. Another text stays what it is."""
    if not text:
        return ""
    try:
        found = Date.fromisoformat(text[:10])
    except ValueError:
        return text
    return f"{found.day} {MONTHS[found.month - 1]} {found.year}"


def parted(text: str) -> str:
    """The text with names such as `findFlights` in words: find Flights."""
    return _SEAM.sub(" ", text)


def with_parts(text: str) -> str:
    """The text with such names followed by their words: found as a whole and by each."""
    if _SEAM.search(text) is None:
        return text
    return _WORD.sub(lambda word: word[0] if _SEAM.search(word[0]) is None else f"{word[0]} {parted(word[0])}", text)


def segmented(text: str) -> str:
    """Set apart what a tokenizer would not: ideographs and kana, each and in pairs, and symbols such as emoji.

    A symbol is spelled by its number, because tokenizers drop it. Text in ASCII is returned as it is.
    """
    if text.isascii():
        return text
    found: list[str] = []
    before = ""
    for letter in text:
        if _unspaced(letter):
            found.append(f" {before}{letter} {letter} " if before else f" {letter} ")
            before = letter
            continue
        before = ""
        found.append(f" u{ord(letter):x}u " if unicodedata.category(letter) == "So" else letter)
    return "".join(found)


def _unspaced(letter: str) -> bool:
    """Whether a letter belongs to a script that writes words without blanks between them."""
    code = ord(letter)
    return (
        0x3040 <= code <= 0x30FF  # kana
        or 0x3400 <= code <= 0x9FFF  # ideographs
        or 0xF900 <= code <= 0xFAFF
        or 0x20000 <= code <= 0x3134F
        or 0x0E00 <= code <= 0x0EFF  # Thai, Lao
        or 0x1000 <= code <= 0x109F  # Myanmar
        or 0x1780 <= code <= 0x17FF  # Khmer
    )
