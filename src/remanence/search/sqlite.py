"""The search index in one SQLite file: the words of each memory and its vectors. Several processes may share it.

It holds what is needed to find memories, not the memories: an answer names ids. A change is searchable, in
every process, as soon as the call that made it returns.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final, TypeVar

from remanence.errors import Closed, Misconfigured, WorldError
from remanence.search import bm25
from remanence.search.columns import Columns
from remanence.search.documents import Cut, checked, checked_changes, checked_question, clean, converted, cut
from remanence.search.embedders import Embedder
from remanence.search.finding import Question, Search
from remanence.search.listing import counted, listed, page_of
from remanence.search.meaning import Made, Meaning
from remanence.search.query import asked, segmented, timed, with_parts
from remanence.search.shelf import KEPT, Piece, Shelf
from remanence.search.types import EVERYTHING, NOTHING, Document, Favour, Filter, Hit, Mode, Source
from remanence.wire.sqlite import Database, sql_text

T = TypeVar("T")

SCHEMA: Final = 2
_SWEPT: Final = 1000

Within = Callable[[Database], Collection[str]]
"""Called first in the commit of a change: for what its owner keeps beside the index. What it returns stays as it is."""


def _all_of_them(database: Database) -> Collection[str]:
    return ()


class SQLiteIndex:
    """Documents of one namespace, found by word and by meaning.

    Not thread-safe by itself: `mutex` is held around each call. Whoever forks calls `let_go` first; the file is
    opened anew by the next call.
    """

    def __init__(
        self,
        path: str | Callable[[], Database],
        embedder: Embedder | None,
        clock: Callable[[], float],
        *,
        mutex: AbstractContextManager[Any] | None = None,
    ) -> None:
        """`path` is the file (":memory:" for none), or what opens it. `clock` tells seconds since the epoch.

        Without an `embedder`, memories are found by words and structure alone.
        """
        self._open = path if callable(path) else lambda: Database(path)
        self._meaning = Meaning(embedder)
        self._clock = clock
        self._mutex = mutex if mutex is not None else nullcontext()
        self._database: Database | None = None
        self._owner = 0
        self._closed = False
        self._columns: Columns | None = None
        self._version = -1
        self._maker: int | None = None  # the number of our embedder in this file

    # --- writing

    def beside(self, work: Callable[[Database], T]) -> T:
        """What `work` returns, alone with the file's connection: for what its owner keeps beside the index."""
        with self._mutex:
            return work(self._at_rest())

    def put(self, documents: Sequence[Document], within: Within = _all_of_them) -> None:
        """Add documents, all or none; one that is there already is replaced. `within`: see `Within`.

        While the embedder is away they are found by their words, until `reembed` makes what is owed. Raises
        `InvalidArgument` for a document without id, or with text or numbers that cannot be stored.
        """
        latest = {document.id: checked(document) for document in documents}
        parted = cut(list(latest.values()))
        made = self._meaning.of_texts(parted.texts)  # outside: nobody waits for an embedder
        with self._mutex:
            database = self._at_rest()
            prepared = self._prepared(parted, made)
            with database.transaction():
                shelf = Shelf(database)
                version = shelf.next_version()
                left = within(database)
                for document, found in prepared:
                    if document.id not in left:
                        shelf.remove(document.id, version)
                        self._shelve(shelf, document, found, version)

    def remove(self, ids: Sequence[str], within: Within = _all_of_them) -> int:
        """Remove documents; returns how many there were. `within`: see `Within`."""
        with self._mutex, self._writing() as (shelf, version):
            left = within(self._connected())
            return sum(shelf.remove(clean(id), version) for id in dict.fromkeys(ids) if id not in left)

    def amend(self, id: str, **changes: Any) -> bool:
        """Change `success`, `importance`, `trust`, `expires` or `uses` of a document; False where there is none."""
        return self.amend_all({id: changes}) > 0

    def amend_all(self, changes: Mapping[str, Mapping[str, Any]], within: Within = _all_of_them) -> int:
        """The same for many, all or none; returns how many there are. `within`: see `Within`."""
        for id, each in changes.items():
            checked_changes(id, each)
        with self._mutex, self._writing() as (shelf, version):
            left = within(self._connected())
            return sum(shelf.amend(id, each, version) for id, each in changes.items() if id not in left)

    def sweep(self) -> int:
        """Remove some of the documents whose time is over; returns how many. They are not found in any case."""
        with self._mutex, self._writing() as (shelf, version):
            numbers = shelf.expired(self._clock(), _SWEPT)
            for number in numbers:
                shelf.remove_number(number, version)
            return len(numbers)

    def reembed(self, source: Source, batch: int = 200) -> Iterator[tuple[int, int]]:
        """Embed anew what another embedder embedded; yields (done, left) after each committed batch.

        It may be stopped after any batch and begun again, by this or another process. Until a document's turn
        comes it is found by its words. What `source` no longer has is removed. Raises the embedder's error,
        `Unavailable` or `Misconfigured`, where that is away; what was done so far stays.
        """
        if not self._meaning:
            return
        self._meaning.ask()
        done = 0
        while True:
            left = self._reembed_some(source, batch)
            if left is None:
                return
            done += left[0]
            yield done, left[1]

    def _reembed_some(self, source: Source, batch: int) -> tuple[int, int] | None:
        with self._mutex:
            database = self._at_rest()
            assert self._maker is not None
            rows = Shelf(database).outdated(self._maker, batch)
        if not rows:
            return None
        found = source([id for _, id, _ in rows])
        parted = cut([checked(found[id]) for _, id, _ in rows if id in found])
        made = self._meaning.surely(parted.texts)
        with self._mutex:
            database = self._at_rest()
            prepared = {document.id: (document, pieces) for document, pieces in self._prepared(parted, made)}
            with database.transaction():  # not while it was embedded: others write meanwhile
                shelf = Shelf(database)
                version = shelf.next_version()
                for number, id in shelf.unchanged(rows):
                    shelf.remove_number(number, version)
                    if id in prepared:
                        self._shelve(shelf, *prepared[id], version)
                return len(rows), shelf.outdated_count(self._maker)

    def _shelve(self, shelf: Shelf, document: Document, prepared: Sequence[Piece], version: int) -> None:
        when = timed(f"{document.text} {document.caption}")
        shelf.put(document, when, prepared, self._maker, version)

    def _prepared(self, parted: Cut, made: Sequence[Made]) -> list[tuple[Document, list[Piece]]]:
        """The pieces of each document as they are stored. Nothing is stored yet."""
        meanings = iter(made)
        found = []
        for document, parts in zip(parted.documents, parted.parts, strict=True):
            stored = []
            for text in parts:
                terms = self._tokens(with_parts(segmented(text)))
                stored.append(Piece(len(terms), bm25.packed(terms), *next(meanings)))
            found.append((document, stored))
        return found

    def _tokens(self, text: str) -> list[str]:
        return self._connected().tokens(text)

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

        `mode` "keyword" and "semantic" go by words or by meaning alone; "fused" by both, and by who spoke, when, in
        which session and next to what. Any text is a query; one without a known word is answered by meaning alone.
        While the embedder is away, "fused" goes without it, and `away` tells why; "semantic" raises its error.
        Raises `InvalidArgument` for a limit below 1, another mode, or a filter with a wrong type.
        """
        checked_question(query, limit, mode)
        only, favour = converted(only, Filter), converted(favour, Favour)
        sought = None if mode == "keyword" else self._meaning.of_question(query)
        if mode == "semantic" and self.away is not None:
            raise type(self.away)(*self.away.args) from self.away
        with self._mutex, self._reading() as shelf:
            columns = self._refreshed(shelf)
            told = asked(query, self._tokens)
            question = Question(told, sought, self._maker, mode, limit, only, favour, self._clock())
            return Search(shelf, columns, question).hits(explain)

    def list(self, only: Filter = EVERYTHING, limit: int = 100, after: str = "") -> tuple[list[str], str]:
        """The ids of what `only` admits, newest first, and where to go on with `after`, "" at the end.

        Raises `InvalidArgument` for an `after` of no such page.
        """
        only, place = converted(only, Filter), page_of(after)
        with self._mutex, self._reading() as shelf:
            return listed(self._refreshed(shelf), only, limit, place, self._clock())

    @property
    def away(self) -> WorldError | None:
        """Why the embedder could not be used the last time that it was needed; None when it could."""
        return self._meaning.away

    def __len__(self) -> int:
        with self._mutex, self._reading() as shelf:
            return len(self._refreshed(shelf))

    def counts(self) -> dict[str, int]:
        """How many documents of each kind there are."""
        with self._mutex, self._reading() as shelf:
            return counted(self._refreshed(shelf), self._clock())

    def _refreshed(self, shelf: Shelf) -> Columns:
        """What is in memory, brought up to what the file holds in this transaction."""
        version, _, _ = shelf.totals()
        if version == self._version and self._columns is not None:
            return self._columns
        if self._columns is None or self._columns.crowded or version - self._version > KEPT - 1000:
            self._columns = self._loaded(shelf)
        else:
            self._follow(shelf, self._columns)
        self._version = version
        return self._columns

    def _loaded(self, shelf: Shelf) -> Columns:
        columns = Columns(self._meaning.dimensions if self._maker is not None else 0)
        for page in shelf.pages():
            columns.add(page, shelf.pieces_of([row.number for row in page], self._maker))
        return columns

    def _follow(self, shelf: Shelf, columns: Columns) -> None:
        for number in shelf.losses(self._version):
            columns.remove(number)
        rows = shelf.news(self._version)
        for row in rows:
            if columns.knows(row.number):
                columns.amend(row)
        fresh = [row for row in rows if not columns.knows(row.number)]
        if fresh:
            columns.add(fresh, shelf.pieces_of([row.number for row in fresh], self._maker))

    # --- the file

    def let_go(self) -> None:
        """Close the file until the next call: before a fork, which SQLite's locks do not survive."""
        with self._mutex:
            if self._database is not None and self._owner == os.getpid():
                self._database.close()
            self._database = None

    def close(self) -> None:
        """Close the file for good."""
        self.let_go()
        self._closed = True

    @contextmanager
    def _writing(self) -> Iterator[tuple[Shelf, int]]:
        database = self._at_rest()
        with database.transaction():
            shelf = Shelf(database)
            yield shelf, shelf.next_version()

    @contextmanager
    def _reading(self) -> Iterator[Shelf]:
        """A view of one moment."""
        database = self._at_rest()
        try:
            database.run("BEGIN")
            yield Shelf(database)
        finally:
            database.roll_back()

    def _at_rest(self) -> Database:
        """The connection, without a transaction that an interrupt (Ctrl-C) left open. The mutex is held."""
        database = self._connected()
        database.roll_back()
        return database

    def _connected(self) -> Database:
        if self._closed:
            raise Closed("the index was closed: open a new one")
        if self._database is None or self._owner != os.getpid():
            database = self._open()
            _prepare(database)
            self._database, self._owner = database, os.getpid()
            self._learn_maker(database)
        elif self._maker is None:
            self._learn_maker(self._database)
        return self._database

    def _learn_maker(self, database: Database) -> None:
        identity = self._meaning.known()
        if identity is not None:
            before = self._maker
            with database.transaction():
                self._maker = Shelf(database).embedder(identity)
            if self._maker != before:
                self._columns = None  # they were read without its vectors


def _prepare(database: Database) -> None:
    """Make the tables where there are none. Raises `Misconfigured` for a file of a later version."""
    with database.transaction():
        if not database.run("SELECT 1 FROM sqlite_schema WHERE name = 'about'"):
            database.run(sql_text("search.sql"))
        found = int(database.run("SELECT value FROM about WHERE name = 'schema'")[0][0])
        if found < 2:
            database.run(sql_text("search_states.sql"))
    if found > SCHEMA:
        database.close()
        raise Misconfigured(
            f"{database.path} was written by a later version of Remanence (its format is {found}, "
            f"this version knows {SCHEMA}): upgrade remanence here"
        )
