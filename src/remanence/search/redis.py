"""The search index on the server: vector sets of Redis 8, found by meaning and judged by words and structure too.

For namespaces too large to mirror: nothing is kept on this machine, and what any process put in, every process finds.
The nearest in meaning are looked at more closely, so a memory that shares words with a question, and no meaning, is
not found; and words alone are not looked up. Of a type of memory with more than `vectorsets.EFFORT` pieces, the
server follows a graph: some of the nearest may be missed, and a filter that refuses as many ends the search.
"""

import hashlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from remanence.errors import Closed, Conflict, Misconfigured, Unavailable, WorldError
from remanence.protocols import Runtime
from remanence.runtime.blocking import run
from remanence.search import bm25
from remanence.search.candidates import Known, Near, Wish, judged
from remanence.search.changes import Wanted, amended, amending, becoming, decoded, floats, following, leaving, parted
from remanence.search.documents import checked_changes, checked_question, converted
from remanence.search.embedders import Embedder
from remanence.search.entries import Change, Entry, Seen, admits, entry_of, expression, reattributed, replacing, term
from remanence.search.fusion import CANDIDATES
from remanence.search.listing import page_of
from remanence.search.meaning import Floats, Meaning
from remanence.search.query import asked, segmented, timed, with_parts
from remanence.search.types import EVERYTHING, NOTHING, Document, Favour, Filter, Hit, Mode, Source
from remanence.search.vectorsets import TOGETHER, Part, Swap
from remanence.wire.keys import Keyspace, partition_of
from remanence.wire.redis import Connect
from remanence.wire.sqlite import Database

_LOOKED_UP: Final = 512
_MOST_ASKED: Final = 16
"""How many times as many pieces as documents are asked for, where long texts take many places."""
_ATTEMPTS: Final = 20
_SWEPT: Final = 1000


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
        self.first = self._parts[0]
        """Where it is noted how far the index is filled."""
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
        self.keep({document.id: Seen("", document) for document in documents})

    def keep(self, seen: Mapping[str, Seen], *, surely: bool = False) -> list[str]:
        """Have documents held as they were seen; the ids of those whose records are other by now, and left alone.

        As `put`; with `surely`, the error of an embedder that is away is raised.
        """
        cuts = parted([each.document for each in seen.values() if each.document is not None])
        made = iter((self._meaning.surely if surely else self._meaning.of_texts)(cuts.texts))
        wanted = {id: (each.version, leaving(id, owed=surely)) for id, each in seen.items() if each.document is None}
        for document, texts in zip(cuts.documents, cuts.parts, strict=True):
            when, version = timed(f"{document.text} {document.caption}"), seen[document.id].version
            entry = entry_of(document, when, texts, tuple(self._terms(text) for text in texts), version)
            change = Change(document.id, entry, floats([next(made) for _ in texts]))
            wanted[document.id] = (version, becoming(change))
        return self._swapped(wanted)[1]

    def follow(self, seen: Mapping[str, Seen]) -> list[str]:
        """As `keep`, where most are held so already: those alone that say something new are embedded."""
        held = self._held(list(seen))
        wanted: dict[str, Wanted] = {}
        others: dict[str, Seen] = {}
        for id, each in seen.items():
            if each.document is None or (id not in held or amended(held[id], each) is None):
                others[id] = each
            elif held[id].version != each.version:
                wanted[id] = (each.version, following(each))
        return [*self._swapped(wanted)[1], *self.keep(others)]

    def behind(self, versions: Mapping[str, str]) -> list[str]:
        """The ids of those documents that are not held as their records were at these versions, "" if nobody knows."""
        held = self._held(list(versions))
        return [id for id, told in versions.items() if not told or id not in held or held[id].version != told]

    def remove(self, ids: Sequence[str]) -> int:
        """Remove documents; returns how many there were."""
        return self._swapped({id: ("", leaving(id)) for id in ids})[0]

    def amend(self, id: str, **changes: Any) -> bool:
        """Change `success`, `importance`, `trust`, `expires` or `uses` of a document; False where there is none."""
        checked_changes(id, changes)
        return bool(self._swapped({id: ("", amending(**changes))})[0])

    def sweep(self) -> int:
        """Remove some of the documents whose time is over; returns how many. They are not found in any case."""
        now, found = self._clock(), 0
        for part in self._parts:
            ids = run(part.ended(now, _SWEPT))
            found += self._swapped({id: ("", leaving(id, now)) for id in ids})[0]
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
            documents = source(ids)
            self.keep({id: Seen("", documents.get(id)) for id in ids}, surely=True)
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

    def _swapped(self, wanted: Mapping[str, Wanted]) -> tuple[int, list[str]]:
        """Have done to each document what shall become of it, by what is held then.

        How many were changed, and the ids of those whose records are at another version.
        """
        self._check()
        changed, others = 0, list[str]()
        for part, ids in self._parted(wanted):
            for start in range(0, len(ids), TOGETHER):
                some, more = self._swapped_in(part, {id: wanted[id] for id in ids[start : start + TOGETHER]})
                changed, others = changed + some, others + more
        return changed, others

    def _swapped_in(self, part: Part, wanted: dict[str, Wanted]) -> tuple[int, list[str]]:
        maker, changed, others = self._known_maker, 0, list[str]()
        makers = run(part.makers(maker))
        left = list(wanted)
        for _ in range(_ATTEMPTS):
            swaps: list[Swap] = []
            for id, seen in zip(left, run(part.entries(left)), strict=True):
                held, (version, becomes) = decoded(seen), wanted[id]
                after = becomes(held)
                if isinstance(after, Change):
                    swaps.append((id, seen, version, replacing(part.names, held, after, maker, makers)))
                elif isinstance(after, Entry):
                    assert held is not None  # it was made of it
                    swaps.append((id, seen, version, reattributed(part.names, id, held, after, makers)))
            done = dict(zip((id for id, *_ in swaps), run(part.swap(swaps)), strict=True))
            changed += sum(was > 0 for was in done.values())
            others += [id for id, was in done.items() if was < 0]
            left = [id for id, was in done.items() if not was]
            if not left:
                return changed, others
        raise Conflict("others keep changing the same memory in the search index: try again")

    def _parted(self, ids: Iterable[str]) -> Iterator[tuple[Part, list[str]]]:
        """Documents by the partition that each is in."""
        named = list(ids)
        for at, part in enumerate(self._parts):
            yield part, [id for id in named if partition_of(id, len(self._parts)) == at]

    def _held(self, ids: Sequence[str]) -> dict[str, Entry]:
        self._check()
        found: dict[str, Entry] = {}
        for part, some in self._parted(ids):
            for id, each in zip(some, run(part.entries(some)), strict=True):
                if (entry := decoded(each)) is not None:
                    found[id] = entry
        return found

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
        held = zip(ids, map(decoded, run(part.entries(ids))), strict=True)
        return [Near(id, each, scores[id]) for id, each in held if each is not None and admits(only, each, now)]

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


def _nothing(only: Filter) -> bool:
    """Whether a filter has a bound that no number meets."""
    bounds = (only.since, only.until, only.importance, only.trust)
    return any(bound is not None and bound != bound for bound in bounds)
