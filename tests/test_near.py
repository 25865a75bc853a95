"""`reads="near"`: answered from here while the change log says that it still holds, never later than the bound."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from remanence import Memory, MemoryClient
from remanence.events import Events
from remanence.faces.state import State
from remanence.model import Append, Batch, Outcome, Put, Reading
from remanence.protocols import Ask, Fetch, Gateway, Tail
from remanence.runtime.blocking import BlockingRuntime, run
from remanence.settings import Settings
from remanence.stores.memory import MemoryStore
from remanence.stores.resilient import ResilientStore
from remanence.stores.shelf import Shelf
from remanence.testing.servers import Server


def until(found: Callable[[], bool], seconds: float = 3.0) -> None:
    """Wait until it is so."""
    limit = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < limit, "not within its time"
        time.sleep(0.005)


@contextmanager
def near(server: Server, namespace: str, **options: Any) -> Iterator[Memory]:
    """A memory that reads near, and whose feed is under way."""
    with Memory(url=server.url, namespace=namespace, reads="near", **options) as memory:
        memory.warm = 1
        until(lambda: memory.read("warm").source == "near")
        yield memory


@pytest.fixture
def other(server: Server, namespace: str) -> Iterator[Memory]:
    """Somebody else."""
    with Memory(url=server.url, namespace=namespace, deadline=1.01) as memory:
        yield memory


# --- on real servers -------------------------------------------------------------------------------


def test_what_nobody_changed_is_answered_from_here(server: Server, namespace: str, other: Memory):
    other.x = {"a": [1]}
    with near(server, namespace) as memory, closing(server.client()) as client:
        assert memory.read("x").source == "store", "the first time"
        before = client.info("commandstats")["cmdstat_get"]["calls"]
        for _ in range(50):
            reading = memory.read("x")
            assert (reading.value, reading.source, reading.stale) == ({"a": [1]}, "near", False)
        assert client.info("commandstats")["cmdstat_get"]["calls"] == before
        assert abs(time.time() - reading.as_of) < 3.5
        assert memory.read("x", fresh=True).source == "store"


def test_anothers_change_is_seen_and_so_is_that_there_is_nothing(server: Server, namespace: str, other: Memory):
    other.x = 1
    with near(server, namespace) as memory:
        assert memory.x == 1
        other.x = 2
        until(lambda: memory.x == 2)
        until(lambda: memory.read("x").source == "near")
        other.settings = {"n": 0}
        assert memory.settings == {"n": 0}
        other.settings["n"] = 5
        until(lambda: memory.settings == {"n": 5})
        del other.x
        until(lambda: memory.get("x", None) is None)
        assert "x" not in memory
        other.x = 3
        until(lambda: memory.get("x", None) == 3)


def test_own_writes_are_seen_at_once(server: Server, namespace: str, other: Memory):
    with near(server, namespace) as memory:
        for number in range(200):
            memory.x = number
            assert memory.x == number
            memory.increment("n")
            assert memory.n == number + 1
            if number % 5 == 0:
                other.x = -1
        memory.log = []
        for number in range(50):
            memory.log.append(number)
            assert memory.log[-1] == number
        until(lambda: memory.read("n").source == "near")


def test_the_end_of_a_session_is_answered_from_here(server: Server, namespace: str):
    with (
        MemoryClient(url=server.url, namespace=namespace, reads="near") as client,
        MemoryClient(url=server.url, namespace=namespace) as another,
    ):

        def told(limit: int) -> list[str]:
            return [message["content"] for message in client.get("s", limit=limit)]

        for number in range(20):
            client.add("s", "user", str(number))
            assert told(3)[-1] == str(number)
        until(lambda: (told(3), client.read("s", limit=3).source == "near")[1])
        another.add("s", "user", "from elsewhere")
        until(lambda: told(2) == ["19", "from elsewhere"])
        client.add("s", "user", "own")
        assert told(3) == ["19", "from elsewhere", "own"]
        until(lambda: client.read("s", limit=3).source == "near")
        another.clear("s")
        until(lambda: told(3) == [])


def test_a_lifetime_ends_here_too(server: Server, namespace: str, other: Memory):
    other.set("x", 1, ttl=0.4)
    with near(server, namespace) as memory:
        memory.set("y", 1, ttl=0.3)
        assert (memory.x, memory.y) == (1, 1)
        time.sleep(0.45)
        assert memory.get("x", None) is None
        assert memory.get("y", None) is None


def test_a_silent_feed_vouches_for_nothing(fresh_server: Callable[..., Server], namespace: str):
    with fresh_server() as server, near(server, namespace, staleness=0.3, deadline=0.3) as memory:
        memory.x = 1
        until(lambda: memory.read("x").source == "near")
        server.pause()
        until(lambda: memory.read("x").source == "local", 5.0)
        assert memory.x == 1
        server.resume()
        until(lambda: memory.read("x").source == "near", 5.0)


def test_a_server_that_came_back_empty_is_believed(fresh_server: Callable[..., Server], namespace: str):
    with fresh_server() as server, Memory(url=server.url, namespace=namespace, deadline=1.01) as other:
        other.gone = 1
        with near(server, namespace) as memory:
            assert memory.gone == 1
            until(lambda: memory.read("gone").source == "near")
            other.engine.gateway.abandon()  # whoever wrote it will not send it again
            server.restart_empty()
            until(lambda: memory.get("gone", None) is None, 8.0)
            memory.x = 5
            until(lambda: memory.read("x").source == "near", 8.0)


def test_compare_and_set_asks_the_server(server: Server, namespace: str, other: Memory):
    with near(server, namespace) as memory:
        memory.x = 1
        assert memory.x == 1
        for number in range(50):
            other.x = number + 2
            assert memory.compare_and_set("x", number + 2, 1), "an answer from near would be the last one"


# --- what may go wrong between an answer and its arrival ----------------------------------------------


class Delayed(MemoryStore):
    """A store whose answers arrive after whatever `meanwhile` does."""

    meanwhile: Callable[[], None] | None = None

    async def apply(self, batch: Batch, deadline: float) -> Outcome:
        outcome = await super().apply(batch, deadline)
        self._happen()
        return outcome

    async def read(self, asks: Any, deadline: float, marks: Any = ()) -> Any:
        told = await super().read(asks, deadline, marks)
        self._happen()
        return told

    def _happen(self) -> None:
        happen, self.meanwhile = self.meanwhile, None
        if happen is not None:
            happen()


class Stage:
    """Two processes on one store. The feed of the one is read by hand."""

    def __init__(self, folder: Path) -> None:
        self.store = Delayed(time.time)
        self.here = self.process(folder / "here", reads="near")
        self.there = self.process(folder / "there")
        assert self.here.vouching is not None
        self.here.feed._start = lambda: None  # type: ignore[method-assign]
        self.here.vouching._start()
        self.hear()

    def process(self, folder: Path, **options: Any) -> ResilientStore:
        settings = Settings.build({}, backend="redis", url="redis://none", **options)
        runtime, tell = BlockingRuntime(), Events()
        return ResilientStore(self.store, Shelf(folder, runtime, settings, tell), runtime, settings, tell)

    def hear(self) -> None:
        run(self.here.feed._step())

    def put(self, process: Gateway, text: bytes) -> None:
        run(process.write([Put("k", b'{"value":"%b"}' % text)]))

    def ask(self, ask: Ask) -> Reading[Any]:
        return run(self.here.read([ask]))[0]

    def read(self) -> tuple[str, str]:
        reading = self.ask(Fetch("k"))
        return reading.value.body.decode()[10:-2], reading.source


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    run(made.here.close(0.0))
    run(made.there.close(0.0))


def test_a_write_that_was_overtaken_before_its_answer_came(stage: Stage):
    def overtake() -> None:
        stage.put(stage.there, b"theirs")
        stage.hear()  # of both

    stage.put(stage.here, b"first")
    stage.store.meanwhile = overtake
    stage.put(stage.here, b"ours")
    assert stage.read() == ("theirs", "store")
    assert stage.read() == ("theirs", "near")


def test_an_answer_that_was_overtaken_before_it_came(stage: Stage):
    def overtake() -> None:
        stage.put(stage.there, b"new")
        stage.hear()

    stage.put(stage.there, b"old")
    stage.hear()
    stage.store.meanwhile = overtake
    assert stage.read() == ("old", "store")
    assert stage.read() == ("new", "store"), "the old answer must not be given again"


def test_an_own_write_between_anothers_and_the_news_of_it(stage: Stage):
    stage.put(stage.there, b"theirs")
    stage.put(stage.here, b"ours")
    stage.hear()  # of theirs, which ours came behind
    assert stage.read() == ("ours", "near")


def test_own_items_behind_anothers_that_were_not_heard_of(stage: Stage):
    run(stage.here.write([Append("l", (b"1",))]))
    assert stage.ask(Tail("l", -5, -1)).value == [b"1"]
    run(stage.there.write([Append("l", (b"2",))]))
    run(stage.here.write([Append("l", (b"3",))]))
    stage.hear()
    assert stage.ask(Tail("l", -5, -1)) == Reading([b"1", b"2", b"3"])


def test_state_asks_for_what_it_changes(stage: Stage):
    state = State(lambda: stage.here, stage.here.settings)
    stage.put(stage.there, b"x")
    with pytest.raises(AttributeError):
        run(state.update("none", lambda value: value))
