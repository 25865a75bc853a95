"""Servers that die, forget, freeze, load, refuse: nothing acknowledged is lost, doubled or reordered."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from remanence import Memory, events
from remanence.testing.oracle import (
    QUICK,
    Heard,
    Task,
    Writer,
    audit,
    eventually,
    judge,
    stored_value,
)
from remanence.testing.servers import PortClaim, Server
from remanence.testing.simple import append, items_of
from remanence.wire.keys import Keyspace

Fresh = Callable[..., Server]


@pytest.fixture
def writer_of(tmp_path: Path, namespace: str) -> Iterator[Callable[..., Writer]]:
    """Start writers whose oracles are `tmp_path/*.oracle`; ended after the test."""
    started: list[Writer] = []

    def start(url: str, name: str, **options: Any) -> Writer:
        settings = {**QUICK, "url": url, "namespace": namespace}
        task = Task(name=name, oracle=str(tmp_path / f"{name}.oracle"), settings=settings, **options)
        started.append(Writer(task))
        return started[-1]

    yield start
    for writer in started:
        writer.kill()


def oracles(folder: Path) -> list[Path]:
    return list(folder.glob("*.oracle"))


def settle(url: str, namespace: str, timeout: float = 20.0) -> None:
    """Have one more process adopt and send whatever ended writers left."""
    with Memory(url=url, namespace=namespace, **QUICK) as memory:
        memory.set("settled", True)
        assert eventually(lambda: memory.engine.status().pending == 0, timeout)
        folder = Path(memory.engine.status().journal).parent

        def all_adopted() -> bool:
            adopted = memory.engine.gateway.adopted  # type: ignore[attr-defined]
            others = [path for path in folder.glob("*.journal") if str(path) != memory.engine.status().journal]
            held = {drain.journal.path for drain in adopted if drain.opened and not drain.journal.pending}
            return all(str(path) in held for path in others)

        assert eventually(all_adopted, timeout), "journals of ended writers were not adopted"


def kill_writers(server: Server, folder: Path, start: Callable[..., Writer], rounds: int) -> int:
    """Three writers, one of them killed and replaced each round; how many were killed."""
    writers = [start(server.url, f"w{i}.0") for i in range(3)]
    for i in range(rounds):
        busy = folder / f"{writers[i % 3].name}.oracle"
        eventually(lambda busy=busy: busy.exists() and busy.stat().st_size > 200)  # type: ignore[misc]
        time.sleep(0.013 * (i % 7))
        writers[i % 3].kill()
        writers[i % 3] = start(server.url, f"w{i % 3}.{i + 1}")
    for writer in writers:
        assert writer.stop() == 0
    return rounds


def test_t01_kill_writers(server: Server, namespace: str, tmp_path: Path, writer_of: Callable[..., Writer]):
    killed = kill_writers(server, tmp_path, writer_of, 3)
    settle(server.url, namespace)
    with closing(server.client()) as client:
        assert not audit(client, namespace, oracles(tmp_path), killed=killed)


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_t01_kill_writers_long(server: Server, namespace: str, tmp_path: Path, writer_of: Callable[..., Writer]):
    killed = kill_writers(server, tmp_path, writer_of, 30)
    settle(server.url, namespace)
    with closing(server.client()) as client:
        assert not audit(client, namespace, oracles(tmp_path), killed=killed)


def kill_server(server: Server, start: Callable[..., Writer], times: int, pause: float) -> None:
    writers = [start(server.url, f"w{i}", pause=0.001) for i in range(2)]
    for _ in range(times):
        time.sleep(pause)
        server.kill()
        time.sleep(pause / 4)
        server.start()
    time.sleep(pause)
    for writer in writers:
        assert writer.stop() == 0


def test_t02_kill_the_server(fresh_server: Fresh, namespace: str, tmp_path: Path, writer_of: Callable[..., Writer]):
    server = fresh_server(persistence="aof")
    kill_server(server, writer_of, 3, 0.25)
    settle(server.url, namespace)
    with closing(server.client()) as client:
        assert not audit(client, namespace, oracles(tmp_path))


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_t02_kill_the_server_long(
    fresh_server: Fresh, namespace: str, tmp_path: Path, writer_of: Callable[..., Writer]
):
    server = fresh_server(persistence="aof")
    kill_server(server, writer_of, 10, 2.0)
    settle(server.url, namespace)
    with closing(server.client()) as client:
        assert not audit(client, namespace, oracles(tmp_path))


def test_t01_t02_both_at_once(fresh_server: Fresh, namespace: str, tmp_path: Path, writer_of: Callable[..., Writer]):
    """Servers that lose their last second, and writers that lose their lives."""
    server = fresh_server(persistence="aof")
    stop = threading.Event()

    def restart() -> None:
        while not stop.wait(0.4):
            server.restart()

    killer = threading.Thread(target=restart)
    killer.start()
    try:
        killed = kill_writers(server, tmp_path, writer_of, 3)
    finally:
        stop.set()
        killer.join()
    settle(server.url, namespace)
    with closing(server.client()) as client:
        assert not audit(client, namespace, oracles(tmp_path), killed=killed)


# --- a server that forgets ------------------------------------------------------------------------


def test_t04_a_server_that_restarts_empty_is_told_again(fresh_server: Fresh, namespace: str):
    server = fresh_server()
    with Memory(url=server.url, namespace=namespace, **QUICK) as memory:
        heard = Heard(memory.engine)
        for i in range(50):
            append(memory, f"w:{i + 1}")
            memory.increment("n")
        server.restart_empty()
        append(memory, "w:51")
        assert memory.engine.flush(5)
        assert eventually(lambda: len(items_of(server, namespace)) == 51)
        assert not judge(items_of(server, namespace), [f"w:{i + 1}" for i in range(51)])
        assert memory.n == 50
        assert sum(each.count for each in heard.soon(events.Rewound)) == 100
        assert not heard.of(events.DataLost)


def test_t04_an_idle_process_notices_by_itself(fresh_server: Fresh, namespace: str):
    server = fresh_server()
    with Memory(url=server.url, namespace=namespace, **QUICK) as memory:
        memory.answer = 42
        server.restart_empty()
        key = Keyspace(namespace).data("memory:answer")
        with closing(server.client()) as client:
            assert eventually(lambda: stored_value(client, key) == 42, 5)


def test_t04_what_is_older_than_the_journal_keeps_is_reported(fresh_server: Fresh, namespace: str):
    server = fresh_server()
    with Memory(url=server.url, namespace=namespace, retain=0.3, **QUICK) as memory:
        heard = Heard(memory.engine)
        for i in range(20):
            append(memory, f"w:{i + 1}")
        assert eventually(lambda: memory.engine.status().retained == 0, 5), "nothing was pruned"
        for i in range(20, 25):
            append(memory, f"w:{i + 1}")
        assert memory.engine.status().retained == 5
        server.restart_empty()
        assert eventually(lambda: len(items_of(server, namespace)) >= 5, 5)
        append(memory, "w:26")
        assert items_of(server, namespace) == [f"w:{i}" for i in range(21, 27)]
        lost = heard.of(events.DataLost)
        assert [(each.first, each.last) for each in lost] == [(1, 20)]


# --- a server that hangs --------------------------------------------------------------------------


def test_t05_a_hung_server_costs_one_deadline(fresh_server: Fresh, namespace: str):
    server = fresh_server()
    deadline = 0.3
    options = {**QUICK, "deadline": deadline, "connect_timeout": deadline}
    with Memory(url=server.url, namespace=namespace, **options) as memory:  # type: ignore[misc]
        append(memory, "w:1")
        memory.known = 1
        assert memory.known == 1
        server.pause()
        took: list[float] = []
        for i in range(1, 300):
            started = time.monotonic()
            append(memory, f"w:{i + 1}")
            took.append(time.monotonic() - started)
        started = time.monotonic()
        assert memory.known == 1
        reading = time.monotonic() - started
        server.resume()
        assert memory.engine.flush(5)
        found = items_of(server, namespace)
    assert took[0] <= deadline + 0.1
    slow = sorted(took[1:])
    assert slow[len(slow) // 2] < 0.003, f"a call while it hangs took {slow[len(slow) // 2]:.4f} s in the median"
    assert slow[-1] < deadline, "a later call waited for the hung server again"
    assert reading < 0.05
    assert not judge(found, [f"w:{i + 1}" for i in range(300)])


def test_t05_reads_of_a_hung_server_cost_one_deadline(fresh_server: Fresh, namespace: str):
    server = fresh_server()
    with Memory(url=server.url, namespace=namespace, **{**QUICK, "deadline": 0.3}) as memory:
        memory.known = 1
        assert memory.known == 1
        server.pause()
        took = []
        for _ in range(20):
            started = time.monotonic()
            assert memory.read("known").stale or memory.engine.status().available
            with pytest.raises(AttributeError):
                _ = memory.unknown
            took.append(time.monotonic() - started)
        server.resume()
    assert took[0] <= 0.5
    assert sorted(took[1:])[-2] < 0.1


@pytest.mark.soak
@pytest.mark.timeout(200)
def test_t05_hung_for_a_minute(fresh_server: Fresh, namespace: str):
    server = fresh_server()
    with Memory(url=server.url, namespace=namespace, **QUICK) as memory:
        append(memory, "w:1")
        server.pause()
        number, until, worst = 1, time.monotonic() + 60, 0.0
        while time.monotonic() < until:
            number += 1
            started = time.monotonic()
            append(memory, f"w:{number}")
            worst = max(worst, time.monotonic() - started)
            time.sleep(0.02)
        server.resume()
        assert memory.engine.flush(20)
        assert worst <= 0.5 + 0.1
        assert not judge(items_of(server, namespace), [f"w:{i + 1}" for i in range(number)])


# --- a server that is not there, or not yet -------------------------------------------------------


def test_t11_never_seen(namespace: str, server_kind: str):
    claim = PortClaim()
    claim.release()
    url = f"redis://127.0.0.1:{claim.number}/0"
    with Memory(url=url, namespace=namespace, **QUICK) as memory:
        memory.answer = 42
        memory.log = []
        memory.log.append("x")
        assert memory.answer == 42 and memory.log == ["x"]
        assert "answer" in memory
        assert sorted(memory.keys()) == ["answer", "log"]
        status = memory.engine.status()
        assert not status.ready and not status.available and status.pending == 3
        assert "refused" in status.reason
        with pytest.raises(AttributeError) as told:
            _ = memory.other
        assert isinstance(told.value, ConnectionError | Exception) and "not known here" in str(told.value)


def test_t11_down_at_start_up_then_there(fresh_server: Fresh, namespace: str):
    server = fresh_server()
    server.kill()
    with Memory(url=server.url, namespace=namespace, **QUICK) as memory:
        heard = Heard(memory.engine)
        for i in range(30):
            append(memory, f"w:{i + 1}")
        assert not memory.engine.status().ready
        server.start()
        assert memory.engine.flush(5)
        status = memory.engine.status()
        assert status.ready and status.available and status.pending == 0 and status.reason == ""
        assert items_of(server, namespace) == [f"w:{i + 1}" for i in range(30)]
        assert heard.soon(events.BecameAvailable)
        assert eventually(lambda: sum(each.count for each in heard.of(events.Replayed)) > 0)


def test_t12_scripts_are_flushed_while_writing(server: Server, namespace: str):
    stop = threading.Event()
    flushed = [0]

    def flush() -> None:
        with closing(server.client()) as client:
            while not stop.is_set():
                client.script_flush()
                flushed[0] += 1

    flusher = threading.Thread(target=flush)
    flusher.start()
    try:
        with Memory(url=server.url, namespace=namespace, **QUICK) as memory:
            heard = Heard(memory.engine)
            for i in range(300):
                append(memory, f"w:{i + 1}")
            assert not heard.of(events.BecameUnavailable)
    finally:
        stop.set()
        flusher.join()
    assert flushed[0] > 20
    assert items_of(server, namespace) == [f"w:{i + 1}" for i in range(300)]


def test_t14_loading(fresh_server: Fresh, namespace: str):
    server = fresh_server(
        persistence="aof",
        fsync="always",
        extra_args=(
            "--key-load-delay",
            "10",
            "--aof-use-rdb-preamble",
            "no",
            "--loading-process-events-interval-bytes",
            "1024",
        ),
    )
    with Memory(url=server.url, namespace=namespace, **QUICK) as memory:
        heard = Heard(memory.engine)
        append(memory, "w:1")
        with closing(server.client()) as client, client.pipeline(transaction=False) as pipe:
            for i in range(16_000):
                pipe.set(f"filler:{namespace}:{i}", "x")
            pipe.execute()
        restarting = threading.Thread(target=server.restart)
        restarting.start()
        reasons: set[str] = set()
        number = 1
        while restarting.is_alive():
            number += 1
            append(memory, f"w:{number}")
            reasons.add(memory.engine.status().reason)
            time.sleep(0.005)
        restarting.join()
        assert any("LOADING" in reason for reason in reasons), reasons
        assert memory.engine.flush(5)
        assert not heard.of(events.ConfigurationRefused) and not heard.of(events.DeadLettered)
        assert items_of(server, namespace) == [f"w:{i + 1}" for i in range(number)]
