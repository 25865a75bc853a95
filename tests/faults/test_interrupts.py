"""A blocking call that is interrupted at any line: each line in turn, not those that a timer happens to hit."""

import json
from pathlib import Path
from typing import Any

import pytest

from remanence import Memory
from remanence.stores import redis as redis_store
from remanence.testing.oracle import QUICK, child, eventually, judge
from remanence.testing.servers import Server
from remanence.testing.simple import append, items_of
from remanence.wire.sqlite import Database

INTERRUPTED = """
import json, linecache, sys, tempfile
from pathlib import Path
from remanence import Memory
from remanence.model import Append
from remanence.runtime.blocking import run

url, namespace, options = *sys.argv[1:3], json.loads(sys.argv[3])
follow, step = int(sys.argv[4]), int(sys.argv[5])
ours, left = "remanence/", None

def deaf(filename, line):
    # as Python is to signals: about to leave a `with`, and in a `finally` before it calls anything
    above = [linecache.getline(filename, line - each) for each in (1, 2)]
    return "with " in linecache.getline(filename, line) or any("finally:" in each for each in above)

def trace(frame, event, argument):
    global left
    filename = frame.f_code.co_filename
    if ours not in filename:
        return None
    if event == "line" and left is not None and not deaf(filename, frame.f_lineno):
        left -= 1
        if left < 0:
            left = None
            raise KeyboardInterrupt
    return trace

def append(name, interrupt_at=None):
    global left
    left = interrupt_at
    sys.settrace(trace)
    try:
        run(memory.engine.gateway.write([Append("list", (name.encode(),))]))
    finally:
        sys.settrace(None)
    ended = left is not None
    left = None
    return ended

def opened(path):
    memory = Memory(url=url, namespace=namespace, path=path, **options)
    memory.x = "x"
    return memory

folder = Path(tempfile.mkdtemp(dir=sys.argv[6]))
memory = opened(folder / "0")
number, acknowledged, line, ended = 0, [], 0, False
while not ended:
    if line % (20 * step) == 0:  # with each interruption between the server and the disk a history forks
        assert memory.engine.flush(2)
        memory.close()
        memory = opened(folder / str(line))
    for at in [line, *([(line * 7 + 13) % (line + 40)] if follow else [])]:
        number += 1
        try:
            ended = append(f"w:{number}", at) and at == line
            acknowledged.append(f"w:{number}")
        except KeyboardInterrupt:
            pass
    for _ in range(2):
        number += 1
        append(f"w:{number}")
        acknowledged.append(f"w:{number}")
    line += step
assert memory.engine.flush(2)
memory.close()
print(json.dumps([line, acknowledged]))
"""


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("follow", [0, 1], ids=["once", "twice"])
def test_t60_a_blocking_call_interrupted_line_by_line(
    server: Server, namespace: str, follow: int, step: int, tmp_path: Path
):
    """The next call works and nothing that was acknowledged is lost, doubled or out of order; `follow`: nor
    where the call after it is interrupted too.
    """
    options = json.dumps({**QUICK, "heartbeat": 60.0})
    arguments = (server.url, namespace, options, follow, step, tmp_path)
    told = child(INTERRUPTED, *arguments, timeout=100, PYTHONWARNINGS="ignore")
    lines, acknowledged = json.loads(told)
    found = items_of(server, namespace)
    assert lines > 300, "a call has more lines than that"
    assert len(found) == len(set(found))
    assert set(acknowledged) <= set(found)
    assert not judge(found, []).disordered


def interrupted_after(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    """Have the next call of a method do its work, and be interrupted before it returns."""
    original = getattr(owner, name)

    def call(*arguments: Any) -> None:
        monkeypatch.setattr(owner, name, original)
        original(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, name, call)


def test_t60_interrupted_when_a_request_has_just_left(server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch):
    """The server has a write under a number that the next write must not be believed to have."""
    with Memory(url=server.url, namespace=namespace, **QUICK) as memory:
        append(memory, "w:1")
        interrupted_after(monkeypatch, redis_store._Flight, "depart")
        with pytest.raises(KeyboardInterrupt):
            append(memory, "w:2")
        assert eventually(lambda: "w:2" in items_of(server, namespace))
        append(memory, "w:3")
    assert items_of(server, namespace) == ["w:1", "w:2", "w:3"]


def test_t60_interrupted_when_a_write_is_just_committed(
    server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch
):
    """The file has a write that is not counted yet: the next one does not overtake it."""
    with Memory(url=server.url, namespace=namespace, **QUICK) as memory:
        append(memory, "w:1")
        gateway: Any = memory.engine.gateway
        assert gateway.take_lead(memory)  # as the keeper does: nothing leaves before it is committed
        interrupted_after(monkeypatch, gateway.journal.database, "change")
        with pytest.raises(KeyboardInterrupt):
            append(memory, "w:2")
        gateway.pass_on(memory)
        append(memory, "w:3")
    assert items_of(server, namespace) == ["w:1", "w:2", "w:3"]


def test_t60_interrupted_when_a_transaction_has_just_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It is not left open, with all that is written later inside it."""
    database = Database(str(tmp_path / "file"))
    interrupted_after(monkeypatch, database, "run")
    with pytest.raises(KeyboardInterrupt), database.transaction():
        raise AssertionError("it must not come so far")
    with database.transaction():
        database.run("CREATE TABLE t (x)")
    database.close()
