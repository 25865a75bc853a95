"""A cable is pulled: nothing is refused, nothing answers, and everything arrives when it is back."""

import asyncio
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from remanence import AsyncMemory, Memory, events
from remanence.model import Append, Receipt, Wanted
from remanence.runtime.blocking import run
from remanence.testing.cables import Cable, FarServer, why_no_cables
from remanence.testing.oracle import QUICK, Heard, Task, Writer, audit, eventually, judge
from remanence.wire.keys import Keyspace

pytestmark = pytest.mark.skipif(bool(why_no_cables()), reason=f"no cables here: {why_no_cables()}")

LIST = "oracle:list"
DEADLINE = 0.3
SOAK_SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
NOTICED = 3.0
"""Seconds within which who only listens must be told."""
OPTIONS: Any = {**QUICK, "deadline": DEADLINE, "connect_timeout": DEADLINE}


@pytest.fixture
def cable() -> Iterator[Cable]:
    with Cable() as laid:
        yield laid


@pytest.fixture
def far(cable: Cable) -> Iterator[FarServer]:
    with FarServer(cable, persistence="aof") as server:
        yield server


def item(number: int) -> Append:
    return Append(LIST, (f"w:{number}".encode(),))


def stored(far: FarServer, namespace: str) -> list[str]:
    with closing(far.client()) as client:
        found: Any = client.lrange(Keyspace(namespace).data(LIST), 0, -1)
    return [each.decode() for each in found]


class Story:
    """What happened, to be judged at the end whoever did it."""

    def __init__(self) -> None:
        self.receipts: list[Receipt] = []
        self.took: list[float] = []

    def note(self, receipts: list[Receipt], started: float) -> None:
        """A call that began at `started` returned."""
        self.took.append(time.monotonic() - started)
        self.receipts += receipts

    def judge(self, found: list[str], heard: list[str]) -> None:
        """All writes are there once and in order, and were heard so; no call took longer than it may."""
        assert not judge(found, [f"w:{n + 1}" for n in range(len(self.receipts))])
        assert heard == [receipt.op_id for receipt in self.receipts]
        assert max(self.took) <= DEADLINE + 0.15


def gone(told: list[Any]) -> bool:
    return any(isinstance(event, events.BecameUnavailable) for event in told)


def test_t10_a_pulled_cable(cable: Cable, far: FarServer, namespace: str):
    with ExitStack() as stack:
        memory = stack.enter_context(Memory(url=far.url, namespace=namespace, **OPTIONS))
        listening = stack.enter_context(Memory(url=far.url, namespace=namespace))
        heard, watch = Heard(listening.engine), listening.engine.gateway.watch(Wanted((LIST,), ()))
        stack.callback(watch.close)
        assert run(watch.ready(10.0))
        story = Story()

        def write() -> str:
            started = time.monotonic()
            story.note(run(memory.engine.gateway.write([item(len(story.receipts) + 1)])), started)
            return story.receipts[-1].state

        assert [write() for _ in range(5)] == ["applied"] * 5
        memory.known = 1
        assert memory.known == 1
        cable.pull()
        pulled = time.monotonic()
        assert {write() for _ in range(50)} == {"journalled"}
        started = time.monotonic()
        assert memory.read("known").stale and memory.known == 1
        assert time.monotonic() - started <= DEADLINE + 0.15
        assert eventually(lambda: gone(heard.events), pulled + NOTICED - time.monotonic()), "nobody was told"
        assert write() == "journalled" and memory.engine.status().pending == 51
        cable.plug()
        assert memory.engine.flush(10.0)
        assert write() == "applied"
        notices = [run(watch.next(10.0)) for _ in story.receipts]
        assert run(watch.next(0.1)) is None
        story.judge(stored(far, namespace), [each.op_id for each in notices if each is not None])


def test_t10_a_pulled_cable_on_a_loop(cable: Cable, far: FarServer, namespace: str):
    async def play() -> None:
        async with (
            AsyncMemory(url=far.url, namespace=namespace, **OPTIONS) as memory,
            AsyncMemory(url=far.url, namespace=namespace) as listening,
        ):
            told: list[Any] = []
            listening.engine.observe(told.append)
            watch, story = listening.engine.gateway.watch(Wanted((LIST,), ())), Story()
            assert await watch.ready(10.0)

            async def write() -> str:
                started = time.monotonic()
                story.note(await memory.engine.gateway.write([item(len(story.receipts) + 1)]), started)
                return story.receipts[-1].state

            assert [await write() for _ in range(5)] == ["applied"] * 5
            cable.pull()
            pulled = time.monotonic()
            assert {await write() for _ in range(50)} == {"journalled"}
            while not gone(told):
                assert time.monotonic() - pulled < NOTICED, "nobody was told"
                before = time.monotonic()
                await asyncio.sleep(0.01)
                assert time.monotonic() - before < 0.3, "the loop was kept"
            cable.plug()
            assert await memory.engine.flush(10.0)
            assert await write() == "applied"
            notices = [await watch.next(10.0) for _ in story.receipts]
            assert await watch.next(0.1) is None
            watch.close()
            story.judge(stored(far, namespace), [each.op_id for each in notices if each is not None])

    asyncio.run(play())


def pull_again_and_again(
    cable: Cable, far: FarServer, namespace: str, folder: Path, until: float, note: Callable[..., None]
) -> None:
    """Two processes write all the time, also while the cable is pulled in the midst of an answer."""
    chance, pulled = random.Random(), 0
    settings: Any = {**OPTIONS, "url": far.url, "namespace": namespace}
    tasks = [Task(name=f"w{n}", oracle=str(folder / f"{n}"), settings=settings, pause=0.005) for n in range(2)]
    oracles = [Path(task.oracle) for task in tasks]
    with ExitStack() as stack:
        writers = [stack.enter_context(Writer(task)) for task in tasks]
        assert eventually(lambda: all(path.exists() and path.stat().st_size > 200 for path in oracles))
        while pulled < 2 or time.monotonic() < until:
            time.sleep(chance.uniform(0.05, 0.5))
            cable.pull()
            time.sleep(chance.uniform(0.1, 1.0))
            cable.plug()
            pulled += 1
        assert [writer.stop() for writer in writers] == [0, 0]
    with Memory(**settings) as memory, closing(far.client()) as client:  # which sends what they left
        memory.settled = True
        eventually(lambda: memory.engine.flush(1.0) and not audit(client, namespace, oracles), 20.0, 0.1)
        found = audit(client, namespace, oracles)
    written = sum(len(path.read_text().splitlines()) for path in oracles)
    note(f"{pulled} pulls", written, len(found.lost), len(found.doubled), len(found.disordered))
    assert not found


def test_t10_a_cable_pulled_again_and_again(cable: Cable, far: FarServer, namespace: str, tmp_path: Path):
    pull_again_and_again(cable, far, namespace, tmp_path, 0.0, lambda *_: None)


@pytest.mark.soak
@pytest.mark.timeout(SOAK_SECONDS + 600)
def test_t10_long(cable: Cable, far: FarServer, namespace: str, tmp_path: Path, campaign: Callable[..., None]):
    pull_again_and_again(cable, far, namespace, tmp_path, time.monotonic() + SOAK_SECONDS, campaign)
