"""The search index on the server: vector sets of Redis 8, found by meaning and judged by words and structure too.

For namespaces too large to mirror: nothing is kept on this machine, and what any process put in, every process finds.
The nearest in meaning are looked at more closely, so a memory that shares words with a question, and no meaning, is
not found; and words alone are not looked up. Of a type of memory with more than `vectorsets.EFFORT` pieces, the
server follows a graph: some of the nearest may be missed, and a filter that refuses as many ends the search.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from remanence.errors import Closed, Conflict, Misconfigured, Unavailable, WorldError
from remanence.protocols import Runtime
from remanence.runtime.blocking import run
from remanence.search import bm25
from remanence.search.candidates import Known, Near, Wish, judged
from remanence.search.documents import Cut, checked, checked_changes, checked_question, converted, cut
from remanence.search.embedders import Embedder
from remanence.search.entries import Change, Entry, admits, amending, entry_of, expression, replacing, term
from remanence.search.fusion import CANDIDATES
from remanence.search.listing import page_of
from remanence.search.meaning import Floats, Made, Meaning
from remanence.search.query import asked, segmented, timed, with_parts
from remanence.search.types import EVERYTHING, NOTHING, Document, Favour, Filter, Hit, Mode, Source
from remanence.search.vectorsets import TOGETHER, Part
from remanence.wire.keys import Keyspace, partition_of
from remanence.wire.redis import Connect
from remanence.wire.sqlite import Database

MOST_PIECES: Final = 200
"""Of a longer text, some 22,000 words, the beginning is found: a server is busy for 30 ms to take so many in."""
_LOOKED_UP: Final = 512
_MOST_ASKED: Final = 16
"""How many times as many pieces as documents are asked for, where long texts take many places."""
_ATTEMPTS: Final = 20
_SWEPT: Final = 1000

Next = Callable[[Entry | None], Change | Entry | None]
"""What shall become of a document, by what is held of it: a change, an amended entry, or None to leave it."""


class VectorSetIndex:
    """Documents of one namespace on servers with vector sets. See `Index`.

    Its calls block, each trip to a server for at most `deadline` seconds, longer where long texts are put in.
    Several threads may call.
    """

    def __init__(
        self,
        places: Sequence[tuple[Keyspace, Connect]],
        embedder: Embedder | None,
        runtime: Runtime,
        *,
        pool: int = 4,
        deadline: float = 1.0,
    ) -> None:
        """`places`: the partitions in their order, by blocking links of `runtime`. Talks to nobody yet.

        Raises `Misconfigured` without an embedder.
        """
        if embedder is None:
            raise Misconfigured("REMANENCE_INDEX=redis finds by meaning: it needs an embedder (REMANENCE_EMBEDDER)")
        self._parts = [Part(keys, connect, runtime, pool, deadline) for keys, connect in places]
        self._meaning = Meaning(embedder)
        self._clock = runtime.wall
        self._words = Database(":memory:")
        self._mutex = threading.Lock()  # of the tokenizer
        self._closed = False

    def open(self) -> None:
        """Make sure that the servers have vector sets. Raises `Misconfigured` where not, `Unavailable` if away."""
        for part in self._parts:
            run(part.open())

    # --- writing

    def put(self, documents: Sequence[Document]) -> None:
        """Add documents, each at once and as a whole; one that is there already is replaced.

        While the embedder is away they are listed and not found, until `reembed` makes what is owed. Raises
        `InvalidArgument` for a document without id, or with text or numbers that cannot be stored.
        """
        latest = {document.id: checked(document) for document in documents}
        parted = _bounded(cut(list(latest.values())))
        self._store(parted, self._meaning.of_texts(parted.texts))

    def remove(self, ids: Sequence[str]) -> int:
        """Remove documents; returns how many there were."""
        return self._swapped({id: _leaving(id) for id in ids})

    def amend(self, id: str, **changes: Any) -> bool:
        """Change `success`, `importance`, `trust`, `expires` or `uses` of a document; False where there is none."""
        checked_changes(id, changes)
        return bool(
            self._swapped({id: lambda held: None if held is None else msgspec.structs.replace(held, **changes)})
        )

    def sweep(self) -> int:
        """Remove some of the documents whose time is over; returns how many. They are not found in any case."""
        now, found = self._clock(), 0
        for part in self._parts:
            ids = run(part.ended(now, _SWEPT))
            found += self._swapped({id: _leaving(id, now) for id in ids})
        return found

    def reembed(self, source: Source, batch: int = 200) -> Iterator[tuple[int, int]]:
        """Embed what another embedder embedded, and what this one owes; yields (done, left) after each batch.

        Several processes may share the work. Until a document's turn comes it is not found by this embedder. What
        `source` no longer has is removed. Raises the embedder's error where that is away; what was done stays.
        """
        done = 0
        while True:
            ids, left = self.owed(batch)
            if not ids:
                return
            self.settle(ids, source(ids))
            done += len(ids)
            yield done, max(0, left - len(ids))

    def owed(self, count: int) -> tuple[list[str], int]:
        """Some of the documents whose vectors this embedder has yet to make, and how many these are in all."""
        self._meaning.ask()
        ids: list[str] = []
        left = 0
        for part in self._parts:
            some, all_ = run(part.owed(self._maker, count))
            ids, left = ids + some, left + all_
        return ids[:count], left

    def settle(self, ids: Sequence[str], documents: Mapping[str, Document]) -> None:
        """Embed these documents anew; those of the ids that are not among them are removed."""
        self.remove([id for id in ids if id not in documents])
        parted = _bounded(cut([checked(documents[id]) for id in ids if id in documents]))
        self._store(parted, self._meaning.surely(parted.texts))

    def _store(self, parted: Cut, made: Sequence[Made]) -> None:
        rows = iter(made)
        wanted: dict[str, Next] = {}
        for document, texts in zip(parted.documents, parted.parts, strict=True):
            when = timed(f"{document.text} {document.caption}")
            entry = entry_of(document, when, texts, tuple(self._terms(text) for text in texts))
            change = Change(document.id, entry, _floats([next(rows) for _ in texts]))
            wanted[document.id] = _becoming(change)
        self._swapped(wanted)

    def _swapped(self, wanted: dict[str, Next]) -> int:
        """Have done to each document what shall become of it, by what is held then; how many were changed."""
        self._check()
        changed = 0
        for at, part in enumerate(self._parts):
            ids = [id for id in wanted if partition_of(id, len(self._parts)) == at]
            for start in range(0, len(ids), TOGETHER):
                changed += self._swapped_in(part, {id: wanted[id] for id in ids[start : start + TOGETHER]})
        return changed

    def _swapped_in(self, part: Part, wanted: dict[str, Next]) -> int:
        maker, changed = self._known_maker, 0
        makers = run(part.makers(maker))
        left = list(wanted)
        for _ in range(_ATTEMPTS):
            swaps = []
            for id, seen in zip(left, run(part.entries(left)), strict=True):
                held = msgspec.msgpack.decode(seen, type=Entry) if seen else None
                after = wanted[id](held)
                if isinstance(after, Change) and (held is not None or after.entry is not None):
                    swaps.append((id, seen, replacing(part.names, held, after, maker, makers)))
                elif isinstance(after, Entry):
                    assert held is not None  # it was made of it
                    swaps.append((id, seen, amending(part.names, id, held, after, makers)))
            done = run(part.swap(swaps))
            changed += sum(done)
            left = [id for (id, _, _), was in zip(swaps, done, strict=True) if not was]
            if not left:
                return changed
        raise Conflict("others keep changing the same memory in the search index: try again")

    def _terms(self, text: str) -> tuple[int, bytes]:
        terms = self._tokens(with_parts(segmented(text)))
        return len(terms), bm25.packed(terms)

    def _tokens(self, text: str) -> list[str]:
        with self._mutex:
            return self._words.tokens(text)

    # --- searching

    def search(
        self,
        query: str,
        *,
        limit: int = 10,
        mode: Mode = "fused",
        only: Filter = EVERYTHING,
        favour: Favour = NOTHING,
        explain: bool = False,
    ) -> list[Hit]:
        """The best `limit` documents that `only` admits, best first.

        "semantic" goes by meaning alone; "fused" judges those nearest in meaning by words and structure too. A
        question of which nothing is known is answered by nothing. Raises the embedder's error while it is away,
        `Misconfigured` for "keyword", and `InvalidArgument` as `SQLiteIndex.search` does.
        """
        checked_question(query, limit, mode)
        only, favour = converted(only, Filter), converted(favour, Favour)
        self._check()
        if mode == "keyword":
            raise Misconfigured(
                "words alone are not looked up in vector sets: search by 'fused' or 'semantic', or set "
                "REMANENCE_INDEX=local"
            )
        sought = self._meaning.of_question(query)
        if sought is None:
            if self.away is not None:
                raise type(self.away)(*self.away.args) from self.away
            return []
        told = asked(query, self._tokens)
        now = self._clock()
        near = self._near(sought.vector, only, limit, now)
        known = self._known(told.terms[:_LOOKED_UP] if mode == "fused" else ())
        return judged(near, told, known, Wish(mode, limit, favour, explain), now)

    def _near(self, vector: Floats, only: Filter, limit: int, now: float) -> list[Near]:
        """The nearest documents that a filter admits, of every partition."""
        if _nothing(only):
            return []
        found: list[Near] = []
        blob = np.asarray(vector, dtype="<f4").tobytes()
        most = max(CANDIDATES, limit)
        for part in self._parts:
            found += self._near_in(part, blob, only, most, now)
        return found

    def _near_in(self, part: Part, blob: bytes, only: Filter, most: int, now: float) -> list[Near]:
        kinds = only.kinds or tuple(run(part.kinds()))
        narrow = msgspec.structs.replace(only, kinds=()) != EVERYTHING
        told, asking = expression(only, now), most
        while True:
            scores, whole = run(part.nearest(self._maker, kinds, blob, asking, told, narrow))
            if len(scores) >= most or whole or asking >= _MOST_ASKED * most:
                break
            asking *= 4
        ids = sorted(scores, key=lambda id: -scores[id])[: most * max(1, len(kinds))]
        held = run(part.entries(ids))
        entries = {id: msgspec.msgpack.decode(each, type=Entry) for id, each in zip(ids, held, strict=True) if each}
        return [Near(id, entry, scores[id]) for id, entry in entries.items() if admits(only, entry, now)]

    def _known(self, terms: Sequence[str]) -> Known:
        pieces = length = 0
        holding = dict.fromkeys(terms, 0)
        for part in self._parts:
            some, more, counts = run(part.counted([term(each) for each in terms]))
            pieces, length = pieces + some, length + more
            for each, count in zip(terms, counts, strict=True):
                holding[each] += count
        return Known(pieces, length, holding)

    @property
    def away(self) -> WorldError | None:
        """Why the embedder could not be used the last time that it was needed; None when it could."""
        return self._meaning.away

    def __len__(self) -> int:
        self._check()
        return sum(run(part.held()) for part in self._parts)

    def counts(self) -> dict[str, int]:
        """How many documents of each kind there are."""
        self._check()
        found: dict[str, int] = {}
        for part in self._parts:
            for kind, count in run(part.living(self._clock())).items():
                found[kind] = found.get(kind, 0) + count
        return {kind: count for kind, count in sorted(found.items()) if count}

    def missing(self, ids: Sequence[str]) -> list[str]:
        """Those of these documents that are not held."""
        self._check()
        found: list[str] = []
        for at, part in enumerate(self._parts):
            mine = [id for id in ids if partition_of(id, len(self._parts)) == at]
            found += [id for id, held in zip(mine, run(part.entries(mine)), strict=True) if not held]
        return found

    def filling(self, who: str) -> bool | None:
        """Whether `who` may put in what was there before the index: False, another does; None, that was done."""
        return run(self._parts[0].filling(who))

    def filled(self, whole: bool) -> None:
        """Note that all is put in, or that it is not."""
        run(self._parts[0].filled(whole))

    # --- its life

    @property
    def _maker(self) -> str:
        """What our vectors are told apart by; the embedder's error is the caller's."""
        if (maker := self._known_maker) == "":
            raise self._meaning.away or Unavailable("the embedder cannot be asked what its vectors are")
        return maker

    @property
    def _known_maker(self) -> str:
        identity = self._meaning.identity()
        return "" if identity is None else hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()

    def _check(self) -> None:
        if self._closed:
            raise Closed("the index was closed: open a new one")

    def let_go(self) -> None:
        """Close the links that nobody uses now."""
        for part in self._parts:
            part.close()

    def close(self) -> None:
        """Close the links for good."""
        self._closed = True
        self.let_go()

    def list(self, only: Filter = EVERYTHING, limit: int = 100, after: str = "") -> tuple[list[str], str]:
        """The ids of what `only` admits, newest first, and where to go on with `after`, "" at the end.

        A filter that admits little reads through all that is newer. Raises `InvalidArgument` for an `after` of no
        such page.
        """
        only, place = converted(only, Filter), page_of(after)
        self._check()
        if _nothing(only):
            return [], ""
        now = self._clock()
        found: list[tuple[float, str]] = []
        for part in self._parts:
            for kind in only.kinds or tuple(run(part.kinds())):
                found += run(part.newest(kind, place, limit + 1, lambda entry: admits(only, entry, now)))
        found = sorted(set(found), reverse=True)
        page = found[:limit]
        more = f"{page[-1][0].hex()} {page[-1][1]}" if len(found) > limit else ""
        return [id for _, id in page], more


def _bounded(parted: Cut) -> Cut:
    """The same, of very long texts their beginnings."""
    return Cut(parted.documents, [texts[:MOST_PIECES] for texts in parted.parts])


def _becoming(change: Change) -> Next:
    """A change whatever is held."""
    return lambda held: change


def _leaving(id: str, over: float | None = None) -> Next:
    """That a document goes, if it is there; with `over`, if its time was over then."""

    def gone(held: Entry | None) -> Change | None:
        if held is None or (over is not None and (held.expires is None or held.expires > over)):
            return None
        return Change(id, None)

    return gone


def _floats(made: Sequence[Made]) -> tuple[bytes | None, ...] | None:
    """The vectors of a document's pieces as the server takes them; None where they are owed."""
    if any(each.vector is None for each in made):
        return None
    rows = [np.frombuffer(each.vector or b"", dtype=np.int8).astype("<f4") for each in made]
    return tuple(row.tobytes() if np.any(row) else None for row in rows)


def _nothing(only: Filter) -> bool:
    """Whether a filter has a bound that no number meets."""
    bounds = (only.since, only.until, only.importance, only.trust)
    return any(bound is not None and bound != bound for bound in bounds)
