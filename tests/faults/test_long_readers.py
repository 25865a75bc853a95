"""A reader that holds an old view of a local file: writes go on, and the write-ahead log does not grow for ever.

SQLite cannot empty the log while anybody reads from it. So nothing of ours keeps a view: whatever takes long reads a
page at a time. Where somebody else keeps one, the mirror waits, the others write on, `doctor` tells, and the log is
emptied when the reader ends.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest

from remanence import AsyncMemory, Memory, events
from remanence.feed.feed import COUNT
from remanence.stores import mirror as mirrors
from remanence.stores.mirror import Mirror
from remanence.stores.mirror_file import contents
from remanence.testing.oracle import QUICK, Child, Heard, eventually
from remanence.testing.servers import Server
from remanence.wire.sqlite import LOG_HELD, LOG_KEPT, Database, log_bytes

Command = Callable[..., tuple[int, Any, str]]
Look = Callable[[], int]

DEADLINE: Final = 1.0
LARGE: Final = "x" * 30_000
SMALL: Final = 3000
"""Writes of a few bytes: at one page each, at least, they are 12 MB of log if none is ever emptied."""

VIEW = """
import sys
from remanence.wire.sqlite import Database
path, table = sys.argv[1:]
database = Database(path, read_only=True)
database.run("BEGIN")
for _ in sys.stdin:
    print(database.run(f"SELECT count(*) FROM {table}")[0][0], flush=True)
"""


@contextmanager
def held_here(path: str, table: str) -> Iterator[Look]:
    """A view of the file as it is now, kept by this process: how many rows it shows."""
    with closing(Database(path, read_only=True)) as database:
        database.run("BEGIN")
        yield lambda: int(database.run(f"SELECT count(*) FROM {table}")[0][0])


@contextmanager
def held_elsewhere(path: str, table: str) -> Iterator[Look]:
    """The same in another process."""
    with Child(VIEW, path, table) as child:

        def look() -> int:
            child.say()
            return int(child.line())

        yield look


def file_of(memory: Any, kind: str) -> str:
    return str(memory.engine.place if kind == "embedded" else memory.engine.gateway.journal.path)


@pytest.fixture(params=["journal", "embedded"])
def place(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any], str]:
    """A file that must take every write: which, the options for it, and the table that grows."""
    if request.param == "embedded":
        return "embedded", {"backend": "sqlite"}, "documents"
    server: Server = request.getfixturevalue("any_server")
    return "journal", {"url": server.url, "namespace": request.getfixturevalue("namespace")}, "rows"


# --- somebody else's view -------------------------------------------------------------------------


async def written(put: Callable[[str, str], Awaitable[object]], numbers: Iterator[int], path: str, size: int) -> float:
    """Write until the log is so large; the longest that one write took."""
    worst = 0.0
    for number in numbers:
        began = time.monotonic()
        await put(f"k{number}", LARGE)
        worst = max(worst, time.monotonic() - began)
        if log_bytes(path) > size:
            return worst
        assert number < 5000, "the reader holds nothing"
    return worst


async def beside_a_reader(
    memory: Any, put: Callable[[str, str], Awaitable[object]], path: str, held: Any, table: str, told: Look
) -> None:
    """Write while a view is held, and after it."""
    numbers = count()
    await put("first", LARGE)
    with held(path, table) as look:
        before = look()
        assert await written(put, numbers, path, LOG_HELD) < DEADLINE
        assert look() == before, "the view is no view"
        assert told() == 1
    for number in range(20):  # the log is emptied by who writes next, and cut when it begins anew
        await put(f"after{number}", LARGE)
    assert log_bytes(path) <= LOG_KEPT
    assert told() == 0
    with held_here(path, table) as look:
        assert look() >= before + next(numbers) + 20
    for number in range(SMALL):
        await put(f"k{number % 7}", "small")
        assert log_bytes(path) <= LOG_KEPT


def warned(answered: Command, options: dict[str, Any]) -> int:
    words = (word for name in ("url", "namespace") if name in options for word in (f"--{name}", options[name]))
    _, out, _ = answered(*words, "doctor", "--json")
    found = [check for check in out["checks"] if check["name"] == "reader"]
    assert all(check["state"] == "warn" and "lsof" in check["advice"] for check in found)
    return len(found)


@pytest.fixture
def told(answered: Command, place: tuple[str, dict[str, Any], str]) -> Look:
    """How many readers `doctor` warns of."""

    def look() -> int:
        return warned(answered, place[1])

    return look


@pytest.mark.parametrize("held", [held_here, held_elsewhere])
def test_t31_writes_go_on_beside_a_reader(place: tuple[str, dict[str, Any], str], held: Any, told: Look):
    kind, options, table = place
    with Memory(**options, deadline=DEADLINE) as memory:
        memory.first = 1

        async def put(name: str, value: str) -> None:
            memory.set(name, value)

        # without a loop: nothing in here waits for one
        with pytest.raises(StopIteration):
            beside_a_reader(memory, put, file_of(memory, kind), held, table, told).send(None)


def test_t31_writes_of_tasks_go_on_beside_a_reader(place: tuple[str, dict[str, Any], str], told: Look):
    kind, options, table = place

    async def play() -> None:
        async with AsyncMemory(**options, deadline=DEADLINE) as memory:
            await memory.set("first", 1)
            await beside_a_reader(memory, memory.set, file_of(memory, kind), held_elsewhere, table, told)

    asyncio.run(play())


@pytest.mark.parametrize("held", [held_here, held_elsewhere])
def test_t31_a_mirror_waits_for_a_reader(
    any_server: Server, namespace: str, held: Any, answered: Command, monkeypatch: pytest.MonkeyPatch
):
    """It grows no further: what it lacks is in the store, which answers until the reader ends."""
    monkeypatch.setattr(mirrors, "RETRY", 0.2)
    options: dict[str, Any] = {"url": any_server.url, "namespace": namespace}
    with Memory(**options, reads="mirror", deadline=DEADLINE) as memory:
        heard = Heard(memory.engine)
        mirror: Mirror = memory.engine.gateway.mirror  # type: ignore[attr-defined]
        memory.set("first", "old")
        memory.get("none", None)  # the first read has it begin
        assert eventually(lambda: mirror.caught_up)
        path, most = mirror.file.path, 0
        with held(path, "documents") as look:
            before = look()
            for number in range(3000):
                memory.set(f"k{number}", LARGE)
                most = max(most, log_bytes(path))
                if heard.of(events.MirrorFailed):
                    break
            for n in range(200):  # it stays where it is
                memory.set(f"k{number + n}", LARGE)
                most = max(most, log_bytes(path))
            assert LOG_HELD < most < LOG_HELD + COUNT * (len(LARGE) + 10_000), "more than one page of changes past it"
            assert look() == before
            memory.set("first", "new")
            assert memory.get("first") == "new"
            assert "old view" in heard.soon(events.MirrorFailed)[0].reason
            assert warned(answered, options) == 1
        assert eventually(lambda: mirror.caught_up)
        assert memory.get("first") == "new" and memory.get(f"k{number}") == LARGE
        memory.set("first", "newer")  # which begins the log anew
        assert eventually(lambda: log_bytes(path) <= LOG_KEPT)


# --- our own --------------------------------------------------------------------------------------

EXPORTING = "import sys; from remanence.cli import main; sys.exit(main(['--backend', 'sqlite', 'export']))"

READING = """
import sys
from remanence import Memory
with Memory(backend="sqlite") as memory:
    print("up", flush=True)
    while True:
        assert len(memory.keys()) >= 2000
        memory.get("k1")
"""


def test_t31_what_of_ours_reads_for_long_holds_no_view(tmp_path: Path):
    """An export whose output nobody takes, a watch that is not asked, a scan that stops in the middle."""
    with ExitStack() as stack:
        memory = stack.enter_context(Memory(backend="sqlite"))
        for number in range(1000):
            memory.set(f"k{number}", "x" * 200)
        path = file_of(memory, "embedded")
        other = stack.enter_context(Memory(backend="sqlite", namespace="other"))
        watch = stack.enter_context(memory.watch())
        stack.enter_context(other.watch())
        export = stack.enter_context(Child(EXPORTING))
        assert '"remanence"' in export.line()
        memory.x = 1
        assert watch.next(5.0) is not None
        for number in range(SMALL):
            memory.set(f"k{number % 7}", "small")
            assert log_bytes(path) <= LOG_KEPT
        assert export.process.poll() is None, "it has ended, and proves nothing"


def test_t31_a_look_at_a_mirror_holds_no_view(any_server: Server, namespace: str):
    with Memory(url=any_server.url, namespace=namespace, reads="mirror", **QUICK) as memory:
        for number in range(50):
            memory.set(f"k{number}", number)
        memory.get("none", None)  # the first read has it begin
        mirror: Mirror = memory.engine.gateway.mirror  # type: ignore[attr-defined]
        assert eventually(lambda: mirror.caught_up and mirror.file.count >= 50)
        with closing(contents(mirror.file.path, time.time())) as entries:  # type: ignore[type-var]
            next(entries)
            for number in range(SMALL):
                memory.set(f"k{number % 7}", "small")
                assert log_bytes(mirror.file.path) <= LOG_KEPT
            assert len(list(entries)) >= 49


def test_t31_readers_that_overlap(tmp_path: Path):
    """There is always somebody who reads, and nobody for long."""
    with ExitStack() as stack:
        memory = stack.enter_context(Memory(backend="sqlite"))
        for number in range(2000):
            memory.set(f"k{number}", number)
        readers = [stack.enter_context(Child(READING)) for _ in range(3)]
        assert [each.line() for each in readers] == ["up"] * 3
        for number in range(SMALL):
            memory.set(f"k{number % 7}", "small")
            assert log_bytes(file_of(memory, "embedded")) <= LOG_KEPT
        assert all(each.process.poll() is None for each in readers)
