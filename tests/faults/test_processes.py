"""Processes that fork, end, are signalled or stopped: what they wrote is neither lost nor doubled."""

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from remanence import Memory
from remanence.model import Append
from remanence.runtime.blocking import run
from remanence.testing.faults import FaultProxy
from remanence.testing.oracle import QUICK, Child, child, eventually, judge, stored_value
from remanence.testing.servers import Server
from remanence.testing.simple import items_of
from remanence.wire.keys import Keyspace

Fresh = Callable[..., Server]


def append_all(memory: Memory, name: str, count: int, start: int = 0) -> None:
    for i in range(start, start + count):
        run(memory.engine.gateway.write([Append("list", (f"{name}:{i + 1}".encode(),))]))


# --- fork -----------------------------------------------------------------------------------------


FORKING = """
import json, os, sys, threading
from remanence import Memory
from remanence.model import Append
from remanence.runtime.blocking import run

url, namespace, used, backend, options = *sys.argv[1:5], json.loads(sys.argv[5])
there = {"url": url, "namespace": namespace, **options}
memory = Memory(**(there if backend == "redis" else {"backend": "sqlite"}))

def add(name, count):
    for i in range(count):
        run(memory.engine.gateway.write([Append("list", (f"{name}:{i + 1}".encode(),))]))
        memory.increment("n")

if used == "used":
    add("before", 5)
busy = threading.Thread(target=add, args=("thread", 60))
busy.start()
children = []
for number in range(4):
    pid = os.fork()
    if pid == 0:
        try:
            add(f"child{number}", 15)
            if number % 2:
                assert memory.engine.flush(10)
                os._exit(0)
            sys.exit(0)  # with its own interpreter's end
        except SystemExit:
            raise
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
    children.append(pid)
    add(f"parent{number}", 10)
busy.join()
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
assert codes == [0, 0, 0, 0], codes
add("after", 5)
assert memory.engine.flush(10)
memory.close()
print("fine")
"""


@pytest.mark.parametrize("used", ["used", "unused"])
def test_t30_fork(server: Server, namespace: str, used: str):
    """A process that forks while its threads write; children write, and end in either way."""
    assert child(FORKING, server.url, namespace, used, "redis", json.dumps(QUICK)).endswith("fine\n")
    wanted = [f"child{n}:{i + 1}" for n in range(4) for i in range(15)]
    wanted += [f"parent{n}:{i + 1}" for n in range(4) for i in range(10)]
    wanted += [f"after:{i + 1}" for i in range(5)] + [f"thread:{i + 1}" for i in range(60)]
    wanted += [f"before:{i + 1}" for i in range(5)] if used == "used" else []
    findings = judge(items_of(server, namespace), wanted)
    assert not findings, findings
    with closing(server.client()) as client:
        assert stored_value(client, Keyspace(namespace).data("memory:n")) == len(wanted)


@pytest.mark.parametrize("used", ["used", "unused"])
def test_t30_fork_on_the_embedded_file(namespace: str, used: str):
    assert child(FORKING, "", namespace, used, "sqlite", json.dumps({})).endswith("fine\n")
    with Memory(backend="sqlite") as memory:
        assert memory.n == 60 + 40 + 60 + 5 + (5 if used == "used" else 0)


ORPHANING = """
import os, signal, sys, time
from remanence import Memory
url, namespace = sys.argv[1:3]
memory = Memory(url=url, namespace=namespace, deadline=0.2)
memory.set("of_the_parent", 1)
if os.fork() == 0:
    time.sleep(60)  # never uses what it inherited
print(memory.engine.status().journal, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_t30_a_child_that_lives_on_does_not_keep_its_dead_parents_journal(server: Server, namespace: str):
    with FaultProxy(server) as proxy:
        proxy.refuse()
        with Child(ORPHANING, proxy.url, namespace) as parent:
            journal = Path(parent.line())
            parent.process.wait(10)
            try:
                proxy.accept()
                with Memory(url=proxy.url, namespace=namespace, **QUICK) as memory:
                    memory.x = 1
                    assert eventually(lambda: "of_the_parent" in memory, 8), "nobody could take the journal over"
            finally:
                for folder in Path("/proc").glob("[0-9]*"):
                    kill_if_child_of_test(folder, namespace)
    assert journal.parent.exists()


def kill_if_child_of_test(folder: Path, namespace: str) -> None:
    """End the child that the killed parent left: the one started with this test's own namespace."""
    try:
        if namespace.encode() in (folder / "cmdline").read_bytes().split(b"\0"):
            os.kill(int(folder.name), signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError):
        pass


def in_another_process(url: str, namespace: str, name: str) -> None:
    with Memory(url=url, namespace=namespace, **QUICK) as memory:
        append_all(memory, name, 20)
        assert memory.engine.flush(10)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_t30_multiprocessing(server: Server, namespace: str, method: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    context = multiprocessing.get_context(method)
    with Memory(url=server.url, namespace=namespace, **QUICK) as memory:
        append_all(memory, "parent", 5)
        program = multiprocessing_target(method)
        workers = [context.Process(target=program, args=(server.url, namespace, f"w{i}")) for i in range(2)]
        for worker in workers:
            worker.start()
        append_all(memory, "parent", 5, start=5)
        for worker in workers:
            worker.join(30)
            assert worker.exitcode == 0
        assert memory.engine.flush(5)
    wanted = [f"w{n}:{i + 1}" for n in range(2) for i in range(20)] + [f"parent:{i + 1}" for i in range(10)]
    findings = judge(items_of(server, namespace), wanted)
    assert not findings, findings


def multiprocessing_target(method: str) -> Callable[..., None]:
    """What the other process runs: it must be importable there, which this test module is not."""
    if method == "fork":
        return in_another_process
    from remanence.testing.oracle import append_in_another_process

    return append_in_another_process


# --- signals and ends -----------------------------------------------------------------------------


ENDING = """
import json, os, signal, sys, threading, time
from remanence import Memory
from remanence.model import Append
from remanence.runtime.blocking import run
url, namespace, way, options = sys.argv[1], sys.argv[2], sys.argv[4], json.loads(sys.argv[5])
count = int(sys.argv[3])
memory = Memory(url=url, namespace=namespace, **options)
for i in range(count):
    run(memory.engine.gateway.write([Append("list", (f"w:{i + 1}".encode(),))], ack="journal"))
print("written", flush=True)
if way == "wait":
    sys.stdin.readline()
if way == "stuck":
    time.sleep(60)
if way == "daemon":
    def on():
        while True:
            run(memory.engine.gateway.write([Append("other", (b"x",))], ack="journal"))
    threading.Thread(target=on, daemon=True).start()
    time.sleep(0.05)
if way == "several":
    for i in range(8):
        other = Memory(url=url, namespace=f"{namespace}-{i}", **options)
        run(other.engine.gateway.write([Append("list", (b"x",))], ack="journal"))
"""

CLOSE_TIMEOUT = 0.5


def ending(url: str, namespace: str, count: int, way: str) -> Child:
    options = json.dumps({**QUICK, "close_timeout": CLOSE_TIMEOUT})
    started = Child(ENDING, url, namespace, count, way, options)
    assert started.line() == "written", started.end()
    return started


def all_there(server: Server, url: str, namespace: str, count: int) -> None:
    """Whatever the ended process did not send, the next one does."""
    with Memory(url=url, namespace=namespace, **QUICK) as memory:
        memory.x = 1
        assert eventually(lambda: len(items_of(server, namespace)) >= count, 8)
    findings = judge(items_of(server, namespace), [f"w:{i + 1}" for i in range(count)])
    assert not findings, findings


def test_t60_pending_writes_go_out_at_the_interpreters_exit(server: Server, namespace: str):
    with FaultProxy(server) as proxy:
        proxy.delay(0.03)
        with ending(proxy.url, namespace, 100, "exit") as process:
            code, _, complaints = process.end(20)
            assert (code, complaints) == (0, "")
        assert len(items_of(server, namespace)) == 100


@pytest.mark.parametrize("way", ["exit", "several"])
@pytest.mark.parametrize("fault", ["down", "hung"])
def test_t60_the_interpreters_exit_does_not_wait_for_a_server_that_is_away(
    fresh_server: Fresh, namespace: str, fault: str, way: str
):
    server = fresh_server()
    with FaultProxy(server) as proxy:
        proxy.half_open() if fault == "hung" else proxy.refuse()
        with ending(proxy.url, namespace, 50, way) as process:
            started = time.monotonic()
            code, _, complaints = process.end(20)
            took = time.monotonic() - started
            assert (code, complaints) == (0, "")
            assert took < CLOSE_TIMEOUT + 4.0, f"the process took {took:.1f} s to end"
        proxy.heal()
        all_there(server, proxy.url, namespace, 50)


def test_t60_daemon_threads_that_write_on_at_the_exit(server: Server, namespace: str):
    with ending(server.url, namespace, 100, "daemon") as process:
        code, _, complaints = process.end(20)
        assert code == 0 and "Fatal" not in complaints, complaints
    all_there(server, server.url, namespace, 100)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("fault", ["none", "hung"])
def test_t60_signals_lose_nothing(fresh_server: Fresh, namespace: str, number: signal.Signals, fault: str):
    server = fresh_server()
    with FaultProxy(server) as proxy:
        if fault == "hung":
            proxy.half_open()
        with ending(proxy.url, namespace, 50, "stuck") as process:
            started = time.monotonic()
            process.signal(number)
            process.end(20)
            took = time.monotonic() - started
            assert took < CLOSE_TIMEOUT + 4.0, f"the process took {took:.1f} s to end"
        proxy.heal()
        all_there(server, proxy.url, namespace, 50)


IN_A_CALL = """
import json, sys, time
from remanence import Memory
url, namespace, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
memory = Memory(url=url, namespace=namespace, **options)
memory.x = number = 0
try:
    print("written", flush=True)
    while True:
        number += 1
        memory.x = number
        memory.increment("n")
        assert memory.x == number
except KeyboardInterrupt:
    print(json.dumps([number, memory.x]), flush=True)
    memory.x = -1
    assert memory.x == -1
    memory.close()
"""


@pytest.mark.parametrize("moment", [0.0, 0.013, 0.05])
def test_t60_ctrl_c_in_a_call(server: Server, namespace: str, moment: float):
    with Child(IN_A_CALL, server.url, namespace, json.dumps(QUICK)) as process:
        assert process.line() == "written"
        time.sleep(moment)
        process.signal(signal.SIGINT)
        number, x = json.loads(process.line())
        assert x in (number, number - 1)
        code, _, complaints = process.end(10)
        assert code == 0, complaints
    with closing(server.client()) as client:
        assert stored_value(client, Keyspace(namespace).data("memory:x")) == -1
        counted = stored_value(client, Keyspace(namespace).data("memory:n")) or 0
        assert number - 1 <= counted <= number


def test_t60_closing_while_others_call(server: Server, namespace: str):
    """Threads in the middle of calls when the memory is closed: each ends with an answer or an error."""
    memory = Memory(url=server.url, namespace=namespace, **QUICK)
    memory.n = 0
    ends: list[str] = []
    done = [0]

    def on() -> None:
        try:
            while True:
                memory.increment("n")
                done[0] += 1
        except Exception as error:
            ends.append(type(error).__name__)

    threads = [threading.Thread(target=on) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    gateway = memory.engine.gateway
    started = time.monotonic()
    run(gateway.close())
    assert time.monotonic() - started < 1.5
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    assert set(ends) == {"Closed"}, ends
    memory.close()
    with closing(server.client()) as client:
        found = stored_value(client, Keyspace(namespace).data("memory:n"))
    assert done[0] <= found <= done[0] + 4


def test_t60_an_asyncio_program_that_forgets_to_close(server: Server, namespace: str):
    program = """
import asyncio, json, sys
from remanence import AsyncMemory
async def main():
    memory = AsyncMemory(url=sys.argv[1], namespace=sys.argv[2], **json.loads(sys.argv[3]))
    await memory.set("x", 1)
    gateway = memory.engine.gateway
    from remanence.model import Append
    for i in range(200):
        await gateway.write([Append("list", (f"w:{i + 1}".encode(),))], ack="journal")
asyncio.run(main())
print("ended")
"""
    with Child(program, server.url, namespace, json.dumps(QUICK), environment={"PYTHONWARNINGS": "default"}) as process:
        code, out, complaints = process.end(20)
    assert code == 0 and out == "ended\n", complaints
    assert "never retrieved" not in complaints and "Traceback" not in complaints, complaints
    all_there(server, server.url, namespace, 200)
