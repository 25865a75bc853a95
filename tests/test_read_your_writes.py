"""A reader sees its own writes at once, also from a server that has just forgotten them."""

import pytest

from remanence import Memory, MemoryClient
from remanence.model import Put
from remanence.runtime.blocking import run
from remanence.settings import Settings


@pytest.mark.parametrize("read_before", [False, True], ids=["first read", "link open"])
def test_a_server_that_forgot_is_told_before_it_is_believed(fresh_server, read_before):
    server = fresh_server()
    with MemoryClient("127.0.0.1", server.port, heartbeat=3600.0) as memory:
        memory.add("s", "user", "one")
        if read_before:
            assert memory.count("s") == 1
        server.restart_empty()
        reading = memory.read("s")
        assert [message["content"] for message in reading.value] == ["one"]
        assert reading.source == "store"


def test_a_new_process_on_an_old_journal_asks_first(fresh_server):
    server = fresh_server()
    with Memory("127.0.0.1", server.port) as memory:
        memory.answer = 42
    server.restart_empty()
    with Memory("127.0.0.1", server.port, heartbeat=3600.0) as memory:
        assert memory.answer == 42
        assert memory.engine.flush(1.0)
        assert b'"value":42' in server.client().get("memory:answer")


def test_flush_asks_whether_the_server_still_has_what_it_applied(fresh_server):
    server = fresh_server()
    with Memory("127.0.0.1", server.port) as memory:
        memory.answer = 42
    server.restart_empty()
    with Memory("127.0.0.1", server.port, heartbeat=3600.0) as memory:
        assert memory.engine.flush(5.0)
        assert b'"value":42' in server.client().get("memory:answer")


def test_a_url_given_outright_beats_a_backend_of_the_environment():
    assert Settings.build({"MEMORY_BACKEND": "sqlite"}, url="redis://h:1/0").backend == "redis"
    assert Settings.build({"MEMORY_BACKEND": "sqlite", "REDIS_URL": "redis://h:1/0"}).backend == "sqlite"
    assert Settings.build({"REDIS_URL": "redis://h:1/0"}, backend="sqlite").backend == "sqlite"


def test_a_scan_has_what_was_pending_when_it_began(fresh_server, monkeypatch):
    """Though it is sent between two pages, to a part of the store that the first one told of."""
    server = fresh_server()
    with Memory("127.0.0.1", server.port) as memory:
        gateway, held = memory.engine.gateway, [True]
        run(gateway.write([Put(f"memory:k{n}", b"1") for n in range(1000)]))
        apply = gateway.store.apply

        async def held_back(*batch):
            while held:
                await gateway.runtime.sleep(0.005)
            return await apply(*batch)

        monkeypatch.setattr(gateway.store, "apply", held_back)
        monkeypatch.setattr(gateway.store, "flight", lambda *batch: None)
        run(gateway.write([Put(f"memory:late{n}", b"1") for n in range(50)], ack="journal"))
        found, cursor = run(gateway.scan("memory:", "", 500))
        assert cursor, "there is a second page"
        held.clear()
        assert memory.engine.flush(10.0)
        while cursor:
            keys, cursor = run(gateway.scan("memory:", cursor, 500))
            found += keys
        assert {f"memory:late{n}" for n in range(50)} <= set(found)
        assert {f"memory:k{n}" for n in range(1000)} <= set(found)
