"""Text cut into the pieces of a BERT vocabulary, in plain Python: no dependency, nothing to download."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Final

UNKNOWN: Final = "[UNK]"
LONGEST_WORD: Final = 100
"""Letters; a longer word is unknown as a whole, as in the tokenizer that the vocabulary was made with."""

_PLAIN = re.compile(r"[a-z0-9]+|[!-/:-@\[-`{-~]")
_ANY = re.compile(r"\S+")
_REMEMBERED: Final = 50_000


class WordPiece:
    """The uncased WordPiece of BERT: lower case, no accents, greedy longest match. Safe to share by threads."""

    def __init__(self, pieces: Sequence[str]) -> None:
        """`pieces` in the order of their ids, a continuation beginning with `##`."""
        self._ids: Mapping[str, int] = {piece: number for number, piece in enumerate(pieces)}
        self._unknown = self._ids[UNKNOWN]
        self._known: dict[str, tuple[int, ...]] = {}

    def ids(self, text: str, limit: int | None = None) -> list[int]:
        """The ids of a text's pieces, without marks of begin and end; at most `limit` of them."""
        found: list[int] = []
        known = self._known
        for word in words(text):
            pieces = known.get(word)
            found.extend(self._learned(word) if pieces is None else pieces)
            if limit is not None and len(found) >= limit:
                return found[:limit]
        return found

    def _learned(self, word: str) -> tuple[int, ...]:
        pieces = self._cut(word)
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[word] = pieces
        return pieces

    def _cut(self, word: str) -> tuple[int, ...]:
        if len(word) > LONGEST_WORD:
            return (self._unknown,)
        found: list[int] = []
        begin = 0
        while begin < len(word):
            for end in range(len(word), begin, -1):
                piece = self._ids.get(word[begin:end] if begin == 0 else "##" + word[begin:end])
                if piece is not None:
                    break
            else:
                return (self._unknown,)
            found.append(piece)
            begin = end
        return tuple(found)


def words(text: str) -> list[str]:
    """Words and single punctuation marks, in lower case and without accents."""
    if text.isascii():
        return _PLAIN.findall(text.lower())
    bare = "".join(_spelled(letter) for letter in unicodedata.normalize("NFD", text.lower()))
    return _ANY.findall(bare)


def _spelled(letter: str) -> str:
    """What stands for one letter: nothing for accents and controls, set apart if it is a word of its own."""
    if letter.isascii():
        if letter.isalnum():
            return letter
        return f" {letter} " if letter.isprintable() and letter != " " else " "
    category = unicodedata.category(letter)
    if category == "Mn" or category in ("Cc", "Cf", "Co", "Cs"):
        return ""
    if category[0] == "Z":
        return " "
    if category[0] == "P" or is_ideograph(letter):
        return f" {letter} "
    return letter


def is_ideograph(letter: str) -> bool:
    """Whether a letter belongs to a CJK block whose letters BERT takes for words."""
    code = ord(letter)
    return (
        0x4E00 <= code <= 0x9FFF
        or 0x3400 <= code <= 0x4DBF
        or 0x20000 <= code <= 0x2CEAF
        or 0xF900 <= code <= 0xFAFF
        or 0x2F800 <= code <= 0x2FA1F
    )
