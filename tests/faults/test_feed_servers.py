"""Listening while servers hang, restart, forget and are promoted: nothing missed in silence."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from remanence import Memory, events
from remanence.testing.faults import FaultProxy
from remanence.testing.listening import SWIFT, names, rest, taken
from remanence.testing.oracle import Heard, eventually
from remanence.testing.servers import Server
from remanence.wire.keys import Keyspace

Fresh = Callable[..., Server]


def test_a_server_that_hangs_for_a_while(namespace: str, impatient: None):
    with Server() as server, Memory(url=server.url, namespace=namespace, **SWIFT) as memory, memory.watch() as watcher:
        memory.x1 = 1
        assert taken(watcher, 1) == names(1)
        server.pause()
        memory.x2 = 2
        memory.x3 = 3
        time.sleep(0.7)
        server.resume()
        assert taken(watcher, 2) == names(2, 3)


def test_a_server_that_is_restarted_with_its_data(fresh_server: Fresh, namespace: str, impatient: None):
    server = fresh_server(persistence="aof")
    with Memory(url=server.url, namespace=namespace, **SWIFT) as memory, memory.watch() as watcher:
        memory.x1 = 1
        assert taken(watcher, 1) == names(1)
        server.kill()
        memory.x2 = 2
        server.start()
        assert taken(watcher, 1) == names(2)


def test_a_server_that_comes_back_empty(fresh_server: Fresh, namespace: str, tmp_path: Path, impatient: None):
    """A resync of all, and then each write that comes back, also those that were heard long ago."""
    server = fresh_server()
    with ExitStack() as stack:
        proxy = stack.enter_context(FaultProxy(server))
        memory = stack.enter_context(Memory(url=server.url, namespace=namespace, path=str(tmp_path / "a"), **SWIFT))
        other = stack.enter_context(Memory(url=proxy.url, namespace=namespace, path=str(tmp_path / "b"), **SWIFT))
        watcher = stack.enter_context(memory.watch())
        for n in range(350):
            other.set(f"x{n}", n)
        memory.own = 1
        assert taken(watcher, 351) == [*names(*range(350)), ("own", "set")]
        proxy.refuse()
        proxy.reset_all()
        server.restart_empty()
        found = rest(watcher, 0.5)
        assert found[0] == ("", "resync") and found[1:] in ([], [("own", "set")])
        proxy.accept()
        assert taken(watcher, 350) == names(*range(350)), "it came back and was not told"
        assert other.x7 == 7 and memory.x349 == 349


def test_t43_a_log_cut_off_past_the_cursor(server: Server, namespace: str, impatient: None):
    with ExitStack() as stack:
        proxy = stack.enter_context(FaultProxy(server))
        memory = stack.enter_context(Memory(url=proxy.url, namespace=namespace, **SWIFT))
        writer = stack.enter_context(Memory(url=server.url, namespace=namespace))
        client = stack.enter_context(closing(server.client()))
        heard = Heard(memory.engine)
        watcher = stack.enter_context(memory.watch())
        writer.x1 = 1
        assert taken(watcher, 1) == names(1)
        saved = watcher.cursor
        proxy.refuse()
        proxy.reset_all()
        for n in range(2, 10):
            writer.set(f"x{n}", n)
        client.xtrim(Keyspace(namespace).log, maxlen=2, approximate=False)
        proxy.accept()
        assert taken(watcher, 1) == [("", "resync")]
        assert heard.soon(events.Resynced) == [events.Resynced(-1)]
        writer.x10 = 10
        assert taken(watcher, 1) == names(10)
        with writer.watch(since=saved) as again:
            assert taken(again, 1) == [("", "resync")]
            writer.x11 = 11
            assert taken(again, 1) == names(11)


@contextmanager
def lagging_replica(fresh_server: Fresh) -> Iterator[tuple[Server, Server, FaultProxy]]:
    """A primary, its replica, and the link between them."""
    at_once = ("--repl-diskless-sync-delay", "0")
    primary, replica = fresh_server(extra_args=at_once), fresh_server()
    with FaultProxy(primary) as link, closing(replica.client()) as client:
        client.execute_command("REPLICAOF", "127.0.0.1", link.port)
        assert eventually(lambda: client.info("replication")["master_link_status"] == "up")
        yield primary, replica, link


def caught_up(primary: Server, replica: Server, key: str) -> bool:
    with closing(primary.client()) as one, closing(replica.client()) as other:
        told: Any = one.xrevrange(key, count=1)
        return bool(told) and told == other.xrevrange(key, count=1)


def promote(primary: Server, replica: Server, proxy: FaultProxy) -> None:
    """As after a failover: the old one is dead, and its address leads to the new one."""
    primary.kill()
    with closing(replica.client()) as client:
        client.execute_command("REPLICAOF", "NO", "ONE")
    proxy._target = replica


def test_t43_a_replica_promoted_without_the_last_entries(fresh_server: Fresh, namespace: str, impatient: None):
    """Told to read again: what vanished, and nothing else. Sent again from the journal, it is heard again."""
    log = Keyspace(namespace).log
    with (
        lagging_replica(fresh_server) as (primary, replica, link),
        FaultProxy(primary) as proxy,
        Memory(url=proxy.url, namespace=namespace, **SWIFT) as memory,
        memory.watch() as watcher,
    ):
        heard = Heard(memory.engine)
        for n in range(1, 6):
            memory.set(f"x{n}", "kept")
        assert taken(watcher, 5) == names(*range(1, 6))
        assert eventually(lambda: caught_up(primary, replica, log))
        link.half_open()
        for n in (2, 7, 8):
            memory.set(f"x{n}", "lost")
        assert taken(watcher, 3) == names(2, 7, 8)
        promote(primary, replica, proxy)
        with Memory(url=replica.url, namespace=namespace) as other:
            other.x9 = "of another"
        proxy.reset_all()
        found = rest(watcher, 0.6)
        resyncs = [name for name, kind in found if kind == "resync"]
        changes = [name for name, kind in found if kind != "resync"]
        assert resyncs == ["x2", "x7", "x8"]
        assert sorted(changes) == ["x2", "x7", "x8", "x9"]
        assert heard.soon(events.Resynced) == [events.Resynced(3)]
        assert memory.x8 == "lost", "the journal sent it again"
