"""Listening in processes that end, fork or leave their loop."""

import json

import pytest

from remanence import Memory
from remanence.testing.listening import SWIFT
from remanence.testing.oracle import Child, child
from remanence.testing.servers import Server

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
