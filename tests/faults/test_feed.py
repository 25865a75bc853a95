"""Listening while links break, servers forget, hang and change, and processes end: nothing missed in silence."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from remanence import Memory, MemoryClient, events
from remanence.feed import feed as feeds
from remanence.model import RESYNC, Notice, Wanted
from remanence.options import Options
from remanence.runtime.blocking import run
from remanence.stores.resilient import SILENT_SECONDS
from remanence.sync.watching import BlockingWatcher
from remanence.testing.faults import FaultProxy
from remanence.testing.oracle import QUICK, Child, Heard, Task, Writer, child, eventually
from remanence.testing.servers import Server
from remanence.wire.keys import Keyspace

Fresh = Callable[..., Server]
SWIFT: Options = {**QUICK, "staleness": 0.6}
"""With shorter waits at the log, too, where it is not about how long they are."""
LONG = 8.0
SHORT = 0.08
SOAK_SECONDS = float(os.environ.get("SOAK_SECONDS", "120"))


def taken(watcher: BlockingWatcher, count: int, timeout: float = LONG) -> list[tuple[str, str]]:
    """The next changes as (name, kind), and that there are no more of them."""
    found = []
    for _ in range(count):
        changed = watcher.next(timeout)
        assert changed is not None, f"after {found} nothing more came"
        found.append((changed.name, changed.kind))
    assert watcher.next(SHORT) is None
    return found


def rest(watcher: BlockingWatcher, timeout: float = 0.5) -> list[tuple[str, str]]:
    """All that still comes."""
    found = []
    while (changed := watcher.next(timeout)) is not None:
        found.append((changed.name, changed.kind))
    return found


def names(*numbers: int) -> list[tuple[str, str]]:
    return [(f"x{n}", "set") for n in numbers]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead link is given up sooner, and a server that is away tried again."""
    monkeypatch.setattr(feeds, "SLACK", 0.3)
    monkeypatch.setattr(feeds, "BACKOFF", 0.1)


# --- links ----------------------------------------------------------------------------------------


def test_t09_a_half_open_link(any_server: Server, namespace: str):
    """Noticed within 3 s by the reader itself, and nothing is missed."""
    with ExitStack() as stack:
        proxy = stack.enter_context(FaultProxy(any_server))
        there = {"namespace": namespace, **QUICK}
        memory = stack.enter_context(Memory(url=proxy.url, **there))
        writer = stack.enter_context(Memory(url=any_server.url, **there))
        watcher = stack.enter_context(memory.watch())
        writer.x1 = 1
        assert taken(watcher, 1) == names(1)
        before = proxy.counts.accepted
        proxy.half_open()
        started = time.monotonic()
        writer.x2 = 2
        writer.x3 = 3
        assert eventually(lambda: proxy.counts.accepted > before, 3.0), "the dead link was not noticed"
        assert time.monotonic() - started < 3.0
        proxy.heal()
        proxy.reset_all()
        assert taken(watcher, 2) == names(2, 3)
        writer.x4 = 4
        assert taken(watcher, 1) == names(4)


def test_resets_all_the_time(any_server: Server, namespace: str, impatient: None):
    with ExitStack() as stack:
        proxy = stack.enter_context(FaultProxy(any_server))
        memory = stack.enter_context(Memory(url=proxy.url, namespace=namespace, **SWIFT))
        writer = stack.enter_context(Memory(url=any_server.url, namespace=namespace))
        watcher = stack.enter_context(memory.watch())
        for n in range(200):
            writer.set(f"x{n}", n)
            if n % 20 == 0:
                proxy.reset_all()
                time.sleep(0.05)
        assert taken(watcher, 200) == names(*range(200))
        assert proxy.counts.reset > 5


@pytest.mark.parametrize("fault", ["refused", "hung"])
def test_away_when_the_watch_begins(any_server: Server, namespace: str, fault: str, impatient: None):
    with ExitStack() as stack:
        proxy = stack.enter_context(FaultProxy(any_server))
        writer = stack.enter_context(Memory(url=any_server.url, namespace=namespace))
        (proxy.refuse if fault == "refused" else proxy.half_open)()
        memory = stack.enter_context(Memory(url=proxy.url, namespace=namespace, **{**SWIFT, "deadline": 0.1}))
        started = time.monotonic()
        watcher = stack.enter_context(memory.watch())
        assert time.monotonic() - started < 1.0
        assert not watcher.ready(0.05) and watcher.cursor == ""
        writer.x1 = 1
        proxy.heal()
        assert watcher.next(LONG) is not None and watcher.ready(LONG)
        writer.x2 = 2
        assert taken(watcher, 1) == names(2)


def test_a_cursor_waits_for_a_server_that_is_away(any_server: Server, namespace: str, impatient: None):
    """Nothing is doubtful then: the past is in the log."""
    with ExitStack() as stack:
        proxy = stack.enter_context(FaultProxy(any_server))
        writer = stack.enter_context(Memory(url=any_server.url, namespace=namespace))
        with writer.watch() as first:
            writer.x1 = 1
            taken(first, 1)
            saved = first.cursor
        writer.x2 = 2
        proxy.refuse()
        memory = stack.enter_context(Memory(url=proxy.url, namespace=namespace, **SWIFT))
        watcher = stack.enter_context(memory.watch(since=saved))
        found: list[Any] = []
        stack.enter_context(memory.on_change(found.append, since=saved))
        assert watcher.next(SHORT) is None and not found
        writer.x3 = 3
        proxy.accept()
        assert taken(watcher, 2) == names(2, 3)
        assert eventually(lambda: len(found) == 2)
        assert [(each.name, each.kind) for each in found] == names(2, 3)


def test_closing_ends_what_waits_for_a_hung_server(any_server: Server, namespace: str):
    with FaultProxy(any_server) as proxy:
        proxy.half_open()
        memory = Memory(url=proxy.url, namespace=namespace, **{**SWIFT, "deadline": 0.1})
        watchers = [memory.watch(), memory.watch(since="1-1/abc")]
        threads = [threading.Thread(target=lambda w=each: list(w)) for each in watchers]
        for thread in threads:
            thread.start()
        time.sleep(0.05)
        started = time.monotonic()
        memory.close()
        for thread in threads:
            thread.join(3.0)
            assert not thread.is_alive()
        assert time.monotonic() - started < 3.0


def test_nothing_is_left_open(any_server: Server, namespace: str, impatient: None):
    with FaultProxy(any_server) as proxy:
        memory = Memory(url=proxy.url, namespace=namespace, **SWIFT)
        with memory.watch() as watcher, memory.watch(), memory.on_change(print):
            memory.x1 = 1
            taken(watcher, 1)
            links = proxy.counts.open
        assert eventually(lambda: not feed_threads(), 3.0)
        for _ in range(3):
            with memory.watch() as watcher:
                memory.x2 = 1
                taken(watcher, 1)
        assert proxy.counts.open <= links, "one link, however often it is watched"
        waiting = memory.watch()
        memory.close()
        assert waiting.closed
        assert eventually(lambda: proxy.counts.open == 0 and not feed_threads(), 3.0)


def feed_threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name in ("remanence-feed", "remanence-listener")]


def test_a_user_who_may_not_read_the_log_is_told(fresh_server: Fresh, namespace: str, impatient: None):
    server = fresh_server()
    with closing(server.client()) as client:
        client.execute_command("ACL", "SETUSER", "default", "-xread")
        with Memory(url=server.url, namespace=namespace, **SWIFT) as memory, memory.watch() as watcher:
            heard = Heard(memory.engine)
            assert eventually(lambda: heard.of(events.FeedFailed) or rest(watcher, 0.01), 3.0)
            time.sleep(0.3)
            assert len(heard.of(events.FeedFailed)) <= 1, "once, not with every attempt"
            memory.x1 = 1
            assert watcher.next(SHORT) is None
            client.execute_command("ACL", "SETUSER", "default", "+xread")
            assert ("x1", "set") in rest(watcher)


# --- servers --------------------------------------------------------------------------------------


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
        assert heard.of(events.Resynced) == [events.Resynced(-1)]
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
        assert heard.of(events.Resynced) == [events.Resynced(3)]
        assert memory.x8 == "lost", "the journal sent it again"


# --- processes -------------------------------------------------------------------------------------

LISTENING = """
import json, sys
from remanence import Memory
url, namespace, since, count = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4])
memory = Memory(url=url, namespace=namespace)
with memory.watch(prefix="x", since=since) as watcher:
    print("listening", flush=True)
    for _ in range(count):
        changed = watcher.next(30)
        print(json.dumps([changed.name, changed.cursor]), flush=True)
if count == 7:
    sys.stdin.read()  # to be killed
memory.close()
"""


def test_a_cursor_outlives_its_process(any_server: Server, namespace: str):
    """A listener that is killed, and the one that follows it: together they hear each change once."""
    with Memory(url=any_server.url, namespace=namespace) as writer:
        with Child(LISTENING, any_server.url, namespace, "null", 7) as first:
            assert first.line() == "listening"
            for n in range(10):
                writer.set(f"x{n}", n)
            heard = [json.loads(first.line()) for _ in range(7)]
        assert first.process.returncode == -9
        for n in range(10, 20):
            writer.set(f"x{n}", n)
        lines = child(LISTENING, any_server.url, namespace, json.dumps(heard[-1][1]), 13).splitlines()[1:]
    assert [name for name, _ in heard] + [json.loads(line)[0] for line in lines] == [f"x{n}" for n in range(20)]


FORKING = """
import json, os, sys, time
from remanence import Memory
url, namespace, backend, options = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
memory = Memory(**({"url": url, **options} if backend == "redis" else {"backend": backend}), namespace=namespace)

def heard(watcher, count):
    found = [watcher.next(10) for _ in range(count)]
    return sorted(each.name for each in found if each is not None)

watcher = memory.watch()
memory.before = 1
assert heard(watcher, 1) == ["before"]
pid = os.fork()
if pid == 0:
    code = 1
    try:
        with memory.watch() as own:
            memory.of_the_child = 1
            assert heard(own, 1) == ["of_the_child"]
            assert memory.engine.flush(10)
        code = 0
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        os._exit(code)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
memory.of_the_parent = 1
found = heard(watcher, 2)
assert found == ["of_the_child", "of_the_parent"], found
assert watcher.next(0.1) is None
memory.close()
print("fine")
"""


@pytest.mark.parametrize("backend", ["redis", "sqlite"])
def test_a_fork(any_server: Server, namespace: str, backend: str):
    """The parent's watch goes on and hears its child; the child's own watch works."""
    assert child(FORKING, any_server.url, namespace, backend, json.dumps(SWIFT)) == "fine\n"


ABANDONED = """
import asyncio, sys
from remanence import AsyncMemory
memory = AsyncMemory(url=sys.argv[1], namespace=sys.argv[2])

async def begin():
    watcher = memory.on_change(print)
    assert await watcher.ready(8)

async def again():
    async with memory.watch() as watcher:
        await memory.set("x1", 1)
        changed = await watcher.next(8)
        assert changed.name == "x1"
    await memory.close()

first = asyncio.new_event_loop()
first.run_until_complete(begin())
if sys.argv[3] == "cancelled":
    for task in asyncio.all_tasks(first):
        task.cancel()
    first.run_until_complete(asyncio.sleep(0.05))
first.close()
asyncio.run(again())
print("fine")
"""


@pytest.mark.parametrize("how", ["cancelled", "left"])
def test_a_loop_that_ended_without_closing_harms_nobody(any_server: Server, namespace: str, how: str):
    # what it leaves open is closed with it: no warning is an error there
    assert child(ABANDONED, any_server.url, namespace, how, PYTHONWARNINGS="ignore").endswith("fine\n")


# --- all of it together ----------------------------------------------------------------------------


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


def test_t09_who_only_listens_is_told_that_the_server_is_gone(fresh_server: Callable[..., Server], namespace: str):
    with fresh_server() as server, Memory(url=server.url, namespace=namespace) as memory, memory.watch():
        memory.x = 1
        time.sleep(SILENT_SECONDS)
        server.pause()
        paused = time.monotonic()
        try:
            while memory.engine.status().available:
                assert time.monotonic() - paused < 3.5
                time.sleep(0.02)
        finally:
            server.resume()
        while not memory.engine.status().available:
            assert time.monotonic() - paused < 15
            time.sleep(0.02)
