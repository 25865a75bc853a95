"""Session messages that others wrote, on real servers: read as they are, and what is no message is skipped."""

import json
import time
from collections.abc import Iterator

import pytest

from remanence.errors import WrongKind
from remanence.events import Event, RecordSkipped
from remanence.faces.history import PAGE
from remanence.sync.messages import MemoryClient
from remanence.testing.messaging import START, contents
from remanence.testing.servers import Server


def heard(client: MemoryClient) -> list[Event]:
    events: list[Event] = []
    client.engine.observe(events.append)
    return events


def put_raw(server: Server, key: str, *items: bytes | str) -> None:
    """Append entries as another program would."""
    with server.client() as plain:
        plain.rpush(key, *items)


def test_a_redis_client_reads_what_the_seed_says(server: Server, namespace: str):
    with MemoryClient("127.0.0.1", server.port) as memory, server.client() as plain:
        memory.add(namespace, "user", "Größe?", {"client": "web"})
        (entry,) = plain.lrange(f"session:{namespace}", 0, -1)
        timestamp = memory.get(namespace)[0]["timestamp"]
        message = f'{{"role":"user","content":"Größe?","timestamp":"{timestamp}","metadata":{{"client":"web"}}}}'
        assert entry.decode() == message
        assert 3590 < plain.ttl(f"session:{namespace}") <= 3600
        memory.clear(namespace)
        assert not plain.exists(f"session:{namespace}")


@pytest.fixture
def in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose local time is not UTC."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("in_tokyo")
def test_what_the_original_wrote_is_readable(server: Server, namespace: str):
    old = {"role": "system", "content": "x", "timestamp": "2024-01-15T10:30:00", "id": 7}
    with MemoryClient(url=server.url) as memory:
        put_raw(server, f"session:{namespace}", json.dumps(old))
        memory.add(namespace, "user", "new")
        assert memory.get(namespace)[0] == old
        assert memory.get(namespace, since="2024-01-15T10:29:59Z", before="2024-01-15T10:30:01Z") == [old]
        assert memory.get(namespace)[1]["timestamp"].endswith("+00:00")
        memory.clear(namespace)


GOOD = b'{"role":"user","content":"good","timestamp":"2024-01-15T10:30:00Z"}'
BAD = [
    b"{cut",
    b"\x80\x04pickle",
    b"[]",
    b"null",
    b'{"content":"x"}',
    b'{"role":"user"}',
    b'{"role":1,"content":"x"}',
    b"\xff",
    b"",
]


@pytest.mark.parametrize("bad", BAD)
def test_an_entry_that_is_no_message_is_skipped_and_reported(server: Server, namespace: str, bad: bytes):
    key = f"session:{namespace}"
    put_raw(server, key, GOOD, bad, GOOD, bad)
    with MemoryClient(url=server.url) as memory:
        events = heard(memory)
        assert contents(memory.get(namespace)) == ["good", "good"]
        skipped = [event for event in events if isinstance(event, RecordSkipped)]
        assert [(event.key, event.position) for event in skipped] == [(key, 1), (key, 3)]
        assert all("pickle" not in str(event) for event in skipped)
        assert memory.engine.status().counters["RecordSkipped"] == 2
        assert len(memory.get(namespace, 1)) == 1, "the limit counts messages"
        assert len(memory.get(namespace, 2)) == 2
        assert len(memory.get(namespace, since=START)) == 2
        assert memory.count(namespace) == 4
        memory.clear(namespace)


def test_many_bad_entries_do_not_hide_the_good(server: Server, namespace: str):
    key = f"session:{namespace}"
    put_raw(server, key, *[GOOD] * 3, *[b"?"] * (2 * PAGE))
    with MemoryClient(url=server.url) as memory:
        events = heard(memory)
        assert len(memory.get(namespace, 2)) == 2
        positions = [event.position for event in events if isinstance(event, RecordSkipped)]
        assert positions == list(range(3, 3 + 2 * PAGE))
        memory.clear(namespace)


def test_a_message_without_a_time_is_in_no_period(server: Server, namespace: str):
    put_raw(
        server,
        f"session:{namespace}",
        b'{"role":"user","content":"x"}',
        b'{"role":"user","content":"x","timestamp":1}',
    )
    with MemoryClient(url=server.url) as memory:
        assert len(memory.get(namespace)) == 2
        assert memory.get(namespace, since=START) == []
        memory.clear(namespace)


def test_a_key_of_another_type_is_an_error_of_its_own(server: Server, namespace: str):
    with MemoryClient(url=server.url) as memory, server.client() as plain:
        plain.set(f"session:{namespace}", "a string")
        for call in (memory.get, memory.count, memory.exists):
            with pytest.raises(WrongKind, match=namespace):
                call(namespace)
        with pytest.raises(WrongKind, match=namespace):
            memory.add(namespace, "user", "x")
        assert plain.get(f"session:{namespace}") == b"a string"
        plain.delete(f"session:{namespace}")
