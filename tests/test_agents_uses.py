"""Uses: what is noted some seconds later in memories that others deleted, pinned or changed meanwhile."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from remanence.engine import BlockingEngine
from remanence.events import DeadLettered, Event, WriteRejected
from remanence.faces.agents import records
from remanence.faces.agents.library import MOST_USES, TOGETHER, Uses
from remanence.faces.agents.types import EpisodicMemory
from remanence.model import NEVER, Delete, Patch, Put
from remanence.protocols import Fetch, Lifetime
from remanence.runtime.blocking import BlockingRuntime, run
from remanence.settings import Settings
from remanence.stores.edits import edit
from remanence.testing.servers import Server, available_servers
from remanence.testing.tending import episode

KEY = records.key_of("episodic", "e")
DAY = 86_400_000


@pytest.fixture(params=[*available_servers(), "sqlite"])
def engine(
    request: pytest.FixtureRequest, _shared_servers: dict[str, Server], namespace: str
) -> Iterator[BlockingEngine]:
    """An engine on an empty namespace of every kind of store."""
    if request.param == "sqlite":
        place: dict[str, Any] = {"backend": "sqlite"}
    else:
        if request.param not in _shared_servers:
            _shared_servers[request.param] = Server(request.param, unix_socket=True).start()
        place = {"url": _shared_servers[request.param].url}
    engine = BlockingEngine(Settings.build(namespace=namespace, **place))
    yield engine
    engine.close()


@pytest.fixture
def heard(engine: BlockingEngine) -> list[Event]:
    """What was told of writes without effect."""
    found: list[Event] = []
    engine.observe(lambda event: found.append(event) if isinstance(event, WriteRejected | DeadLettered) else None)
    return found


def put(engine: BlockingEngine, ttl: int = NEVER, **fields: Any) -> None:
    body = records.packed(episode("e", "Bake bread", **fields), engine.settings)
    run(engine.gateway.write([Put(KEY, body, ttl)], ack="store"))


def noted(engine: BlockingEngine, uses: Uses) -> None:
    run(uses.note_down(now=True))
    assert engine.flush(10)


def stored(engine: BlockingEngine) -> EpisodicMemory:
    found: Any = run(engine.gateway.read([Fetch(KEY)], fresh=True))[0].value
    return records.stored(found.body, KEY)  # type: ignore[return-value] # it is an episode's key


def left(engine: BlockingEngine) -> int:
    return int(run(engine.gateway.read([Lifetime(KEY)], fresh=True))[0].value)


def in_days(engine: BlockingEngine, days: float) -> Any:
    now = engine.gateway.runtime.wall() + days * 86400
    return datetime.fromtimestamp(now, UTC)


def test_a_use_of_what_was_deleted_meanwhile_is_no_rejection(engine: BlockingEngine, heard: list[Event]):
    put(engine)
    uses = Uses(engine.gateway, 60.0)
    uses.used([KEY])
    uses.extend([KEY], DAY)
    run(engine.gateway.write([Delete(KEY)], ack="store"))
    noted(engine, uses)
    assert run(engine.gateway.read([Fetch(KEY)], fresh=True))[0].value is None
    assert heard == []
    assert run(engine.gateway.status()).dead_letters == 0


def test_a_use_that_cannot_be_noted_is_still_told(engine: BlockingEngine, heard: list[Event]):
    run(engine.gateway.write([Put(KEY, b'{"access_count":"many"}')], ack="store"))
    uses = Uses(engine.gateway, 60.0)
    uses.used([KEY])
    noted(engine, uses)
    assert [type(each) for each in heard] == [WriteRejected]


def test_a_patch_that_is_wanted_is_still_told_of(engine: BlockingEngine, heard: list[Event]):
    run(engine.gateway.write([Patch(KEY, (edit(("a",), "set", 1),))], ack="journal"))
    assert engine.flush(10)
    assert [type(each) for each in heard] == [WriteRejected]


def test_a_use_does_not_take_back_what_was_pinned_meanwhile(engine: BlockingEngine, heard: list[Event]):
    put(engine, DAY, expires_at=in_days(engine, 1))
    uses = Uses(engine.gateway, 60.0)
    uses.used([KEY])
    uses.extend([KEY], 2 * DAY)
    put(engine, pinned=True)  # by another process, to which these uses are unknown
    noted(engine, uses)
    found = stored(engine)
    assert (found.pinned, found.expires_at, found.access_count) == (True, None, 1)
    assert left(engine) == -1
    assert heard == []


def test_a_use_does_not_shorten_a_life_that_was_made_longer_meanwhile(engine: BlockingEngine, heard: list[Event]):
    put(engine, DAY, expires_at=in_days(engine, 1))
    uses = Uses(engine.gateway, 60.0)
    uses.extend([KEY], 2 * DAY)
    end = in_days(engine, 9)
    put(engine, 9 * DAY, expires_at=end)
    noted(engine, uses)
    assert stored(engine).expires_at == end and left(engine) > 8 * DAY
    assert heard == []


def test_a_use_makes_a_life_longer(engine: BlockingEngine):
    put(engine, DAY, expires_at=in_days(engine, 1))
    uses = Uses(engine.gateway, 60.0)
    uses.used([KEY, KEY])
    uses.extend([KEY], 2 * DAY)
    noted(engine, uses)
    found = stored(engine)
    assert found.access_count == 2 and found.expires_at is not None and found.expires_at > in_days(engine, 1.9)
    assert 1.9 * DAY < left(engine) <= 2 * DAY


def test_what_is_deleted_here_is_not_noted_and_what_is_gathered_is_bounded():
    class Counting:
        """A gateway that counts what is written."""

        def __init__(self) -> None:
            self.runtime = BlockingRuntime()
            self.written = 0

        async def write(self, writes: Any, **_: Any) -> None:
            self.written += len(writes)

    gateway = Counting()
    uses = Uses(gateway, 0.01)  # type: ignore[arg-type] # as much of one as is asked
    names = [f"memory:episodic:{at}" for at in range(MOST_USES + 5)]
    uses.used(names)
    uses.extend(names, DAY)
    uses.forget(names[:10])
    for turn in (1, 2):
        time.sleep(0.02)
        run(uses.note_down())
        assert gateway.written == turn * 2 * TOGETHER, "each note is a write that everybody hears of"
    run(uses.note_down(now=True))
    assert gateway.written == 2 * (MOST_USES - 10)
