"""Listening while everything goes wrong at once, or others write at full speed: nothing twice or missing."""

import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import redis

from remanence import Memory, MemoryClient
from remanence.model import RESYNC, Notice, Wanted
from remanence.runtime.blocking import run
from remanence.testing.listening import LONG, SHORT, SWIFT, rest, taken
from remanence.testing.oracle import Task, Writer, eventually
from remanence.testing.servers import Server
from remanence.wire.keys import Keyspace

Fresh = Callable[..., Server]
SOAK_SECONDS = float(os.environ.get("SOAK_SECONDS", "120"))


class Folded:
    """What a listener knows who reads again from the server whatever it hears of.

    `doubled`: operations told twice with no resync of their key, or of all, between.
    """

    def __init__(self, client: "redis.Redis", namespace: str) -> None:
        self.values: dict[str, Any] = {}
        self.doubled: list[str] = []
        self.resyncs = 0
        self._client = client
        self._keys = Keyspace(namespace)
        self._told: dict[str, str] = {}

    def note(self, notice: Notice) -> None:
        """Hear of a change. Raises what the client raises while the server is away: to be tried again."""
        keys = [notice.key] if notice.key else sorted({*self.values, *self.stored()})
        self.values.update({key: self.value(key) for key in keys})
        if notice.kind == RESYNC:
            self.resyncs += 1
            self._told = {op: key for op, key in self._told.items() if notice.key and key != notice.key}
        elif notice.op_id in self._told:
            self.doubled.append(notice.op_id)
        else:
            self._told[notice.op_id] = notice.key

    def stored(self) -> list[str]:
        found = self._client.scan_iter(self._keys.data("") + "*", count=1000)
        keys = [self._keys.key(name.decode()) for name in found]
        return [key for key in keys if key.startswith(("memory:", "oracle:"))]

    def value(self, key: str) -> Any:
        name = self._keys.data(key)
        kind: Any = self._client.type(name)
        if kind == b"list":
            return self._client.lrange(name, 0, -1)
        return self._client.get(name) if kind == b"string" else None

    def now(self) -> dict[str, Any]:
        return {key: self.value(key) for key in self.stored()}


def storm(fresh_server: Fresh, namespace: str, folder: Path, seconds: float) -> None:
    """Writers in other processes, a server that dies again and again, and a listener that must know all in the end."""
    server = fresh_server(persistence="aof")
    settings: Any = {"url": server.url, "namespace": namespace, **SWIFT}
    with ExitStack() as stack:
        memory = stack.enter_context(Memory(**settings))
        watch = memory.engine.gateway.watch(Wanted((), ("memory:", "oracle:")))
        folded, stop = Folded(stack.enter_context(closing(server.client())), namespace), threading.Event()
        listener = threading.Thread(target=lambda: follow(watch, folded, stop))
        listener.start()
        tasks = [Task(name=f"w{n}", oracle=str(folder / f"{n}"), settings=settings, pause=0.002) for n in range(2)]
        writers = [stack.enter_context(Writer(task)) for task in tasks]
        assert eventually(lambda: len(folded.values) == 4)
        end, deaths = time.monotonic() + seconds, 0
        while deaths < 2 or time.monotonic() < end:
            time.sleep(0.3)
            server.kill()
            time.sleep(0.1)
            server.start() if deaths % 2 else server.restart_empty()
            deaths += 1
        time.sleep(0.3)
        assert [writer.stop() for writer in writers] == [0, 0]
        assert memory.engine.flush(LONG)
        eventually(lambda: folded.resyncs and folded.values == folded.now(), LONG, 0.1)
        stop.set()
        watch.close()
        listener.join(LONG)
        assert folded.values == folded.now() and len(folded.values) == 4
        assert folded.doubled == [] and folded.resyncs


def follow(watch: Any, folded: Folded, stop: threading.Event) -> None:
    while not stop.is_set():
        notice = run(watch.next(0.2))
        while notice is not None and not stop.is_set():
            try:
                folded.note(notice)
                break
            except redis.RedisError:  # the server is away: the listener reads again when it is back
                time.sleep(0.02)


def test_t42_the_folded_view_is_what_the_server_has(
    fresh_server: Fresh, namespace: str, tmp_path: Path, impatient: None
):
    storm(fresh_server, namespace, tmp_path, 0.0)


@pytest.mark.soak
@pytest.mark.timeout(SOAK_SECONDS + 280)
def test_t42_long(fresh_server: Fresh, namespace: str, tmp_path: Path):
    storm(fresh_server, namespace, tmp_path, SOAK_SECONDS)


def test_nothing_twice_or_missing_while_others_write_at_full_speed(server: Server, namespace: str):
    """One watch after the other, each going on where the one before was closed in the middle."""
    with ExitStack() as stack:
        memory = stack.enter_context(Memory(url=server.url, namespace=namespace))
        clients = [stack.enter_context(MemoryClient(url=server.url, namespace=namespace)) for _ in range(2)]
        with memory.watch() as first:
            memory.x0 = 0
            taken(first, 1)
            saved = first.cursor
        total = 600
        threads = [threading.Thread(target=lambda n=n: burst(clients[n], f"s{n}", total)) for n in range(2)]
        for thread in threads:
            thread.start()
        found: list[str] = []
        while len(found) < 2 * total:
            with clients[0].watch(since=saved) as watcher:
                for _ in range(min(170, 2 * total - len(found))):
                    changed = watcher.next(LONG)
                    assert changed is not None and changed.kind == "appended"
                    found.append(changed.cursor)
                saved = watcher.cursor
        for thread in threads:
            thread.join()
        with clients[0].watch(since=saved) as watcher:
            assert rest(watcher, SHORT) == []
        with closing(server.client()) as client:
            log: Any = client.xrange(Keyspace(namespace).log)
        wanted = [f"{at.decode()}/{c[b'c'].split()[0].decode()}" for at, c in log if b" append " in c[b"c"]]
        assert found == wanted


def burst(client: MemoryClient, session: str, count: int) -> None:
    for n in range(count):
        client.add(session, "user", str(n))
