"""Primaries that die, hang or step down, and slots that move: nothing is lost or doubled."""

import contextlib
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from remanence import MemoryClient
from remanence.errors import Unavailable
from remanence.runtime.blocking import BlockingRuntime, run
from remanence.testing.clusters import Cluster, Watched, wait_until
from remanence.testing.oracle import QUICK, Child, Findings, eventually, judge
from remanence.testing.servers import Server
from remanence.wire.address import Address
from remanence.wire.keys import Keyspace, partition_of
from remanence.wire.redis import blocking_connect
from remanence.wire.sentinel import Sentinels

MOST = 10.0
"""Seconds until work goes on while other tests keep the machine busy; alone it takes a third."""
SESSIONS = 6
SOAK_SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))

WRITER = """
import asyncio, json, sys, threading
from pathlib import Path
from remanence import AsyncMemoryClient, MemoryClient
from remanence.testing.oracle import Oracle

name, folder, options = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
sessions, pause = int(sys.argv[4]), float(sys.argv[5])
oracle, stop = Oracle(folder / f"{name}.oracle"), threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()

def one():
    with MemoryClient(**options) as client:
        number = 0
        while not stop.wait(pause):
            number += 1
            for at in range(sessions):
                line = f"{name}-{at}:{number}"
                client.add(f"{name}-{at}", "user", line)
                oracle.note(line)
        assert client.engine.flush(30), "not everything was sent"

async def two():
    async with AsyncMemoryClient(**options) as client:

        async def fill(at):
            number = 0
            while not stop.is_set():
                number += 1
                line = f"{name}-{at}:{number}"
                await client.add(f"{name}-{at}", "user", line)
                oracle.note(line)
                await asyncio.sleep(pause)

        await asyncio.gather(*map(fill, range(sessions)))
        assert await client.engine.flush(30), "not everything was sent"

one() if name == "one" else asyncio.run(two())
"""


class Scene:
    """Two processes, one on threads and one on a loop, that append to sessions of their own; and what is found."""

    def __init__(self, url: str, namespace: str, folder: Path, pause: float = 0.005) -> None:
        self.pause = pause
        self.namespace = namespace
        self.folder = folder
        self.options: dict[str, Any] = {"url": url, "namespace": namespace, "session_ttl": 600}
        self._stack = ExitStack()
        self._writers: list[Child] = []

    def __enter__(self) -> "Scene":
        for name in ("one", "two"):
            call = (WRITER, name, self.folder, json.dumps(self.options), SESSIONS, self.pause)
            self._writers.append(self._stack.enter_context(Child(*call)))
        assert eventually(lambda: min(self.written()) > 60, 30), "the writers did not begin"
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def written(self) -> list[int]:
        files = [self.folder / f"{name}.oracle" for name in ("one", "two")]
        return [len(file.read_text().splitlines()) if file.exists() else 0 for file in files]

    def stop(self) -> None:
        """Let both writers send all they have, and end."""
        for writer in self._writers:
            writer.say()
        for writer in self._writers:
            code, _, complaints = writer.end(60)
            assert code == 0, complaints

    def acknowledged(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {f"{name}-{at}": [] for name in ("one", "two") for at in range(SESSIONS)}
        for file in self.folder.glob("*.oracle"):
            for line in file.read_text().splitlines():
                found[line.partition(":")[0]].append(line)
        return found

    def exact(self, client: Callable[[], Any], partitions: int) -> None:
        """Everything is there once and in order, through us and through a plain client.

        A process that was not there looks, and sends what a server forgot that died or stepped down after its
        writers had ended.
        """
        with MemoryClient(**{**self.options, **QUICK, "deadline": 2.0}) as memory:
            limit = time.monotonic() + 20
            while True:
                ours = {name: [each["content"] for each in memory.get(name)] for name in self.acknowledged()}
                with closing(client()) as plain:
                    theirs = self._through(plain, partitions)
                wrong = [self._wrong(each) for each in (ours, theirs)]
                if not any(wrong):
                    return
                assert not any(found.doubled or found.disordered for each in wrong for found in each.values()), wrong
                assert time.monotonic() < limit, wrong
                time.sleep(0.1)

    def _wrong(self, there: dict[str, list[str]]) -> dict[str, Findings]:
        wanted = self.acknowledged()
        assert len(wanted) == 2 * SESSIONS and all(wanted.values())
        judged = {name: judge(there[name], lines) for name, lines in wanted.items()}
        return {name: found for name, found in judged.items() if found}

    def _through(self, client: Any, partitions: int) -> dict[str, list[str]]:
        found = {}
        for session in self.acknowledged():
            at = partition_of(f"session:{session}", partitions)
            keys = Keyspace(self.namespace, at, tagged=partitions > 1)
            items = client.lrange(keys.data(f"session:{session}"), 0, -1)
            found[session] = [json.loads(item)["content"] for item in items]
        return found


@contextmanager
def probing(options: dict[str, Any], sessions: list[str]) -> Iterator[Callable[[float], float]]:
    """Processes with usual settings that are at work; then tell how long after a moment all sessions take writes."""
    with MemoryClient(**{**options, "ack": "store"}) as client:
        for session in sessions:
            client.add(session, "user", "before")

        def back(since: float) -> float:
            for session in sessions:
                while True:
                    try:
                        client.add(session, "user", "after")
                        break
                    except Unavailable:
                        assert time.monotonic() < since + 30, "not back at work"
                        time.sleep(0.01)
            return time.monotonic() - since

        yield back


# --- clusters -------------------------------------------------------------------------------------


def slot_of(namespace: str, session: str) -> int:
    return Keyspace(namespace, partition_of(f"session:{session}", 8), tagged=True).slot


def sessions_on(cluster: Cluster, namespace: str, server: Server) -> list[str]:
    return [f"probe-{i}" for i in range(24) if cluster.primary_of(slot_of(namespace, f"probe-{i}")) is server]


def kill_a_primary(cluster: Cluster, scene: Scene) -> float:
    """Have one die under the writers, and come back as a replica; how long its partitions were away."""
    victim = cluster.primary_of(slot_of(scene.namespace, "one-0"))
    with probing(scene.options, sessions_on(cluster, scene.namespace, victim)) as back:
        victim.kill()
        took = back(time.monotonic())
    victim.start()
    wait_until(cluster.whole, "the killed server is a replica")
    return took


def test_t19_a_primary_is_killed(cluster: Cluster, namespace: str, tmp_path: Path):
    with Scene(cluster.url, namespace, tmp_path) as scene:
        took = kill_a_primary(cluster, scene)
        print(f"back at work after {took:.2f} s, {sum(scene.written())} writes")
        scene.stop()
        assert took < MOST
        scene.exact(cluster.client, 8)


def test_t19_a_slot_moves_under_writes(cluster: Cluster, namespace: str, tmp_path: Path):
    with Scene(cluster.url, namespace, tmp_path) as scene:
        slot = slot_of(namespace, "one-0")
        source = cluster.primary_of(slot)
        target = next(each for each in map(cluster.primary_of, (0, 8000, 16383)) if each is not source)
        beside = next(f"probe-{i}" for i in range(100) if slot_of(namespace, f"probe-{i}") == slot)
        with probing(scene.options, [beside]) as back:
            before = scene.written()
            moved = cluster.migrate(slot, target, between=lambda: time.sleep(0.5))
            took = back(time.monotonic())
        after = scene.written()
        print(f"back at work {took:.2f} s after the last of {moved} keys had moved")
        scene.stop()
        assert moved >= 4 and cluster.primary_of(slot) is target
        assert all(now > then for now, then in zip(after, before, strict=True)), "writers had to wait"
        assert took < MOST
        scene.exact(cluster.client, 8)


def test_t19_a_primary_hangs(cluster: Cluster, namespace: str, tmp_path: Path):
    with Scene(cluster.url, namespace, tmp_path) as scene:
        victim = cluster.primary_of(slot_of(namespace, "one-0"))
        with probing(scene.options, sessions_on(cluster, namespace, victim)) as back:
            victim.pause()
            took = back(time.monotonic())
        victim.resume()
        wait_until(cluster.whole, "the one that hung is a replica")
        print(f"back at work after {took:.2f} s, {sum(scene.written())} writes")
        scene.stop()
        assert took < MOST
        scene.exact(cluster.client, 8)


# --- Sentinels ------------------------------------------------------------------------------------


@pytest.fixture
def watched(server_kind: str) -> Iterator[Watched]:
    with Watched(server_kind) as made:
        yield made


def killed(watched: Watched) -> Callable[[], None]:
    watched.primary.kill()
    return lambda: None


def hung(watched: Watched) -> Callable[[], None]:
    frozen = watched.primary
    frozen.pause()
    return frozen.resume


def stepping_down(watched: Watched) -> Callable[[], None]:
    watched.fail_over()
    return lambda: None


@pytest.mark.parametrize("fault", [killed, hung, stepping_down])
def test_t18_a_failover(
    fault: Callable[[Watched], Callable[[], None]], watched: Watched, namespace: str, tmp_path: Path
):
    with Scene(watched.url, namespace, tmp_path) as scene:
        before = watched.primary
        with probing(scene.options, ["probe"]) as back:
            began = time.monotonic()
            mend = fault(watched)
            wait_until(lambda: watched.primary is not before, "the replica was promoted")
            took = back(began)
        mend()
        print(f"back at work after {took:.2f} s, {sum(scene.written())} writes")
        scene.stop()
        assert took < MOST
        scene.exact(lambda: watched.primary.client(), 1)


def test_t18_links_to_a_former_primary_are_not_used_any_more(watched: Watched):
    """It may still answer, and what it answers is outdated."""
    runtime = BlockingRuntime()
    sentinels = Sentinels(Address(watched.url, connect_timeout=1.0), blocking_connect, runtime)
    link: Any = run(sentinels.connect(time.monotonic() + 5))  # type: ignore[arg-type]
    before = watched.primary
    watched.fail_over()
    wait_until(lambda: watched.primary is not before, "the replica was promoted")
    run(sentinels.connect(time.monotonic() + 5)).close()  # type: ignore[arg-type]
    assert link.outdated
    with pytest.raises(Unavailable):
        link.post([("PING",)], time.monotonic() + 1)


# --- for long -------------------------------------------------------------------------------------


def slot_moved(cluster: Cluster, namespace: str, chance: random.Random) -> None:
    slot = slot_of(namespace, f"one-{chance.randrange(SESSIONS)}")
    source = cluster.primary_of(slot)
    target = next(each for each in map(cluster.primary_of, (0, 8000, 16383)) if each is not source)
    cluster.migrate(slot, target)


def primary_killed(cluster: Cluster, namespace: str, chance: random.Random) -> None:
    victim = cluster.primary_of(slot_of(namespace, f"one-{chance.randrange(SESSIONS)}"))
    victim.kill()
    time.sleep(chance.uniform(0.1, 5))
    victim.start()


def primary_hung(cluster: Cluster, namespace: str, chance: random.Random) -> None:
    victim = cluster.primary_of(slot_of(namespace, f"one-{chance.randrange(SESSIONS)}"))
    victim.pause()
    time.sleep(chance.uniform(0.1, 5))
    victim.resume()


def storm(faults: dict[str, Callable[[], None]], whole: Callable[[], Any], chance: random.Random) -> str:
    """Inject one fault after the other, each when the last one is mended; what was injected, for the table."""
    counts = dict.fromkeys(faults, 0)
    limit = time.monotonic() + SOAK_SECONDS
    while time.monotonic() < limit:
        name = chance.choice(list(faults))
        faults[name]()
        counts[name] += 1
        wait_until(whole, f"all is well after {name}")
        time.sleep(chance.uniform(0.5, 3))
    return ", ".join(f"{count} {name}" for name, count in counts.items())


@pytest.mark.soak
@pytest.mark.timeout(SOAK_SECONDS + 600)
def test_t19_long(cluster: Cluster, namespace: str, tmp_path: Path, campaign: Callable[..., None]):
    chance = random.Random()
    faults = {
        each.__name__: partial(each, cluster, namespace, chance) for each in (slot_moved, primary_killed, primary_hung)
    }
    with Scene(cluster.url, namespace, tmp_path, pause=0.1) as scene:
        injected = storm(faults, cluster.whole, chance)
        written = sum(scene.written())
        scene.stop()
        scene.exact(cluster.client, 8)
        campaign(injected, written)


@pytest.mark.soak
@pytest.mark.timeout(SOAK_SECONDS + 600)
def test_t18_long(watched: Watched, namespace: str, tmp_path: Path, campaign: Callable[..., None]):
    chance = random.Random()

    def killed_and_started() -> None:
        victim = watched.primary
        victim.kill()
        time.sleep(chance.uniform(0.1, 5))
        victim.start()

    def hung_for_a_while() -> None:
        victim = watched.primary
        victim.pause()
        time.sleep(chance.uniform(0.1, 5))
        victim.resume()

    def asked_to_step_down() -> None:
        with contextlib.suppress(redis.ResponseError):  # a failover is under way already
            watched.fail_over()

    faults = {each.__name__: each for each in (killed_and_started, hung_for_a_while, asked_to_step_down)}
    with Scene(watched.url, namespace, tmp_path, pause=0.1) as scene:
        injected = storm(faults, watched.whole, chance)
        written = sum(scene.written())
        scene.stop()
        scene.exact(lambda: watched.primary.client(), 1)
        campaign(injected, written)
