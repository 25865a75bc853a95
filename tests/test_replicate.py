"""`remanence replicate`: the target follows the source for ever, each change once, whoever dies meanwhile."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from remanence.cli import main
from remanence.model import Append, Delete, Put, Touch, Write
from remanence.settings import Settings
from remanence.sync.state import Memory
from remanence.testing.faults import FaultProxy
from remanence.testing.oracle import QUICK, Task, Writer, audit, eventually, write
from remanence.testing.servers import Server, available_servers
from remanence.wire.keys import Keyspace

SOAK_SECONDS = float(os.environ.get("SOAK_SECONDS", "120"))


@pytest.fixture
def pair() -> Iterator[tuple[Server, Server]]:
    """Two servers of different kinds where there are, which keep what they acknowledged, to be killed."""
    kinds = list(available_servers())
    with (
        Server(kinds[0], persistence="aof", fsync="always") as one,
        Server(kinds[-1], persistence="aof", fsync="always") as other,
    ):
        yield one, other


def contents(client: "redis.Redis", namespace: str) -> dict[str, Any]:
    """Everything in a namespace as bytes, stamps included, but for Remanence's own."""
    keys = Keyspace(namespace)
    found: dict[str, Any] = {}
    for name in client.scan_iter(match=f"{keys.prefix}*", count=1000):
        key = keys.key(name.decode())
        if not key.startswith("remanence:{"):
            found[key] = client.lrange(name, 0, -1) if client.type(name) == b"list" else client.get(name)
    return found


def put(server: Server, namespace: str, *writes: Write) -> None:
    write(Settings.build(url=server.url, namespace=namespace, **QUICK), *writes)


def append(key: str, *items: int, ttl: int = 0) -> Append:
    return Append(key, tuple(b'{"n":%d}' % item for item in items), ttl)


class Replicator:
    """A `remanence replicate --json` in a process of its own, and what it said so far."""

    def __init__(self, *words: str) -> None:
        self.said: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "remanence", "replicate", "--json", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # as from a terminal's shell
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(json.loads(line))

    def of(self, event: str) -> list[dict[str, Any]]:
        return [each for each in list(self.said) if each["event"] == event]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> int:
        """Ctrl-C; the exit code."""
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(20)
        self._reader.join()
        return code

    def complaint(self) -> str:
        """What it said when it ended by itself."""
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def close(self) -> None:
        self.kill()
        self._reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


@contextmanager
def replicating(*words: str) -> Iterator[Replicator]:
    replicator = Replicator(*words)
    try:
        yield replicator
    finally:
        replicator.close()


def ends(server: Server, namespace: str) -> tuple[str, ...]:
    return (server.url, server.url, "--namespace", namespace, "--to-namespace", f"{namespace}-2")


def equal(one: "redis.Redis", other: "redis.Redis", namespace: str, there: str = "") -> bool:
    return contents(one, namespace) == contents(other, there or namespace)


# --- following ------------------------------------------------------------------------------------


def test_the_target_follows_and_goes_on_where_it_was(any_server: Server, namespace: str):
    there = f"{namespace}-2"
    put(any_server, namespace, Put("memory:a", b'{"value":1}'), append("session:l", 1, 2), Put("memory:b", b'{"v":1}'))
    with closing(any_server.client()) as client, replicating(*ends(any_server, namespace)) as first:
        assert eventually(lambda: first.of("following"), 30)
        assert equal(client, client, namespace, there)
        put(any_server, namespace, Put("memory:a", b'{"value":2}', 90_000), append("session:l", 3), Delete("memory:b"))
        assert eventually(lambda: equal(client, client, namespace, there))
        assert 0 < client.pttl(Keyspace(there).data("memory:a")) <= 90_000
        put(any_server, namespace, Touch("memory:a", 30_000), Delete("session:l"), append("session:l", 1, 2, 7))
        assert eventually(lambda: client.pttl(Keyspace(there).data("memory:a")) <= 30_000)
        assert eventually(lambda: equal(client, client, namespace, there))
        assert client.llen(Keyspace(there).data("session:l")) == 3, "the new list, not the old one and the new"
        assert first.end() == 0
        last = first.said[-1]
        assert (last["event"], last["state"], last["lag"], last["behind"]) == ("end", "following", 0.0, 0)
        assert last["passes"] == 1
        put(any_server, namespace, append("session:l", 8), Put("memory:c", b'{"value":1}'))
        assert main(["replicate", *ends(any_server, namespace), "--for", "0.6"]) == 0
        assert equal(client, client, namespace, there)


def test_a_second_run_copies_nothing_anew(
    any_server: Server, namespace: str, capsysbinary: pytest.CaptureFixture[bytes]
):
    put(any_server, namespace, *(Put(f"memory:d{n}", b'{"value":1}') for n in range(20)))
    for passes in (1, 0):
        assert main(["replicate", *ends(any_server, namespace), "--for", "0.4", "--json"]) == 0
        assert json.loads(capsysbinary.readouterr().out.splitlines()[-1])["passes"] == passes


def test_another_prefix_is_another_matter(any_server: Server, namespace: str):
    put(any_server, namespace, Put("memory:a", b'{"value":1}'), append("session:l", 1))
    words = ["replicate", *ends(any_server, namespace), "--for", "0.3"]
    with closing(any_server.client()) as client:
        assert main([*words, "--prefix", "memory:"]) == 0
        put(any_server, namespace, Put("memory:b", b'{"value":1}'), append("session:m", 1))
        assert main([*words, "--prefix", "memory:"]) == 0
        assert sorted(contents(client, f"{namespace}-2")) == ["memory:a", "memory:b"]
        assert main(words) == 0, "what was copied of one prefix is not all"
        assert equal(client, client, namespace, f"{namespace}-2")


def test_people_are_told_how_far_behind_it_is(
    any_server: Server, namespace: str, capsysbinary: pytest.CaptureFixture[bytes]
):
    put(any_server, namespace, Put("memory:a", b'{"value":"secret"}'))
    assert main(["replicate", *ends(any_server, namespace), "--for", "0.3"]) == 0
    out, err = (each.decode() for each in capsysbinary.readouterr())
    assert out == "" and "secret" not in err
    assert "copying everything first" in err and "following: 0 entries and 0 ms behind" in err


def test_a_log_that_was_cut_off_is_made_up_for(any_server: Server, namespace: str):
    there = f"{namespace}-2"
    put(any_server, namespace, Put("memory:a", b'{"v":1}'), Put("memory:gone", b'{"v":1}'), append("session:l", 1))
    assert main(["replicate", *ends(any_server, namespace), "--for", "0.3"]) == 0
    put(any_server, namespace, Delete("memory:gone"), append("session:l", 2), Put("memory:b", b'{"value":1}'))
    with closing(any_server.client()) as client:
        client.xtrim(Keyspace(namespace).log, maxlen=1, approximate=False)
        with replicating(*ends(any_server, namespace)) as again:
            assert eventually(lambda: equal(client, client, namespace, there), 20)
            assert eventually(lambda: again.of("following"))
            assert again.of("copying"), "it was told"


def test_both_directions_converge_and_then_are_quiet(any_server: Server, namespace: str):
    here, there = namespace, f"{namespace}-2"
    back = (any_server.url, any_server.url, "--namespace", there, "--to-namespace", here, "--merge", "--name", "back")
    put(any_server, here, Put("memory:a", b'{"value":1}'), Put("memory:both", b'{"value":"old"}'))
    with (
        closing(any_server.client()) as client,
        replicating(*ends(any_server, namespace)) as one,
        replicating(*back) as other,
    ):
        assert eventually(lambda: one.of("following") and other.of("following"), 30)
        put(any_server, there, Put("memory:b", b'{"value":1}', 80_000), Put("memory:both", b'{"value":"new"}'))
        put(any_server, here, Delete("memory:a"))
        assert eventually(lambda: equal(client, client, here, there))
        assert sorted(contents(client, here)) == ["memory:b", "memory:both"]
        assert b"new" in contents(client, here)["memory:both"]
        time.sleep(0.3)
        lengths = [client.xlen(Keyspace(name).log) for name in (here, there)]
        time.sleep(1.0)
        assert [client.xlen(Keyspace(name).log) for name in (here, there)] == lengths, "no change goes round and round"


# --- whoever dies ---------------------------------------------------------------------------------


def writers(server: Server, namespace: str, folder: Path, stack: ExitStack, pause: float = 0.002) -> list[Writer]:
    found = []
    for name in ("one", "two"):
        options: Any = {"url": server.url, "namespace": namespace, "path": str(folder / f"j-{name}"), **QUICK}
        task = Task(name=name, oracle=str(folder / name), settings=options, pause=pause)
        found.append(stack.enter_context(Writer(task)))
    return found


def check(source: "redis.Redis", target: "redis.Redis", namespace: str, folder: Path) -> None:
    """Both ends are equal, and hold what the writers were promised, once and in order."""
    assert eventually(lambda: equal(source, target, namespace), 30, every=0.1)
    findings = audit(target, namespace, [folder / "one", folder / "two"])
    assert not (findings.lost or findings.doubled or findings.disordered or findings.skipped), findings


def test_killed_again_and_again_it_repeats_and_loses_nothing(
    pair: tuple[Server, Server], namespace: str, tmp_path: Path
):
    server, target = pair
    words = (server.url, target.url, "--namespace", namespace)
    with ExitStack() as stack:
        source, there = (stack.enter_context(closing(each.client())) for each in (server, target))
        both = writers(server, namespace, tmp_path, stack)
        name = Keyspace(namespace).data("oracle:list")
        for _ in range(3):
            before = there.llen(name)
            with replicating(*words) as replicator:
                assert eventually(lambda before=before: there.llen(name) > before + 20, 30, every=0.001)
                replicator.kill()
        with replicating(*words) as replicator:
            assert [each.stop() for each in both] == [0, 0]
            check(source, there, namespace, tmp_path)
            assert replicator.end() == 0


def test_servers_that_are_killed_and_come_back(pair: tuple[Server, Server], namespace: str, tmp_path: Path):
    one, other = pair
    with ExitStack() as stack:
        source, target = (stack.enter_context(closing(each.client())) for each in (one, other))
        replicator = stack.enter_context(replicating(one.url, other.url, "--namespace", namespace))
        both = writers(one, namespace, tmp_path, stack)
        name = Keyspace(namespace).data("oracle:list")
        for server in pair:
            assert eventually(lambda: target.llen(name) > 20, 30)
            server.kill()
            time.sleep(0.3)
            server.start()
            reached = target.llen(name)
            assert eventually(lambda reached=reached: target.llen(name) > reached + 20, 30)
        assert [each.stop() for each in both] == [0, 0]
        check(source, target, namespace, tmp_path)
        assert replicator.of("waiting"), "it said so"
        other.restart_empty()
        check(source, target, namespace, tmp_path)
        assert replicator.end() == 0


def test_replies_that_are_lost_do_not_double_items(any_server: Server, namespace: str):
    there = f"{namespace}-2"
    with closing(any_server.client()) as client, FaultProxy(any_server) as proxy:
        words = (any_server.url, proxy.url, "--namespace", namespace, "--to-namespace", there)
        with replicating(*words) as replicator:
            assert eventually(lambda: replicator.of("following"), 30)
            for number in range(8):
                proxy.drop_replies(1, after=b"EVALSHA")
                put(any_server, namespace, append("session:l", number), append("session:m", number, number))
                assert eventually(lambda: equal(client, client, namespace, there))
        assert proxy.counts.dropped >= 4, "replies were lost"


def test_the_second_replicator_ends_the_first(any_server: Server, namespace: str):
    put(any_server, namespace, append("session:l", 1))
    with (
        closing(any_server.client()) as client,
        replicating(*ends(any_server, namespace)) as first,
    ):
        assert eventually(lambda: first.of("following"), 30)
        with replicating(*ends(any_server, namespace)) as second:
            assert eventually(lambda: second.of("following"), 30)
            put(any_server, namespace, append("session:l", 2))
            assert first.process.wait(20) == 1
            assert "another copy or replication" in first.complaint()
            put(any_server, namespace, append("session:l", 3))
            assert eventually(lambda: equal(client, client, namespace, f"{namespace}-2"))
            assert second.end() == 0


# --- what does not fit ----------------------------------------------------------------------------


def test_a_list_that_does_not_fit_is_told_once_and_mends_when_it_can(any_server: Server, namespace: str):
    there = f"{namespace}-2"
    put(any_server, namespace, append("session:l", 1), Put("memory:a", b'{"value":1}'))
    put(any_server, there, append("session:l", 9))
    with closing(any_server.client()) as client, replicating(*ends(any_server, namespace), "--merge") as replicator:
        assert eventually(lambda: replicator.of("unfit"), 30)
        put(any_server, namespace, append("session:l", 2))
        put(any_server, namespace, Put("memory:a", b'{"value":2}'))
        assert eventually(lambda: b'"value":2' in contents(client, there)["memory:a"])
        assert contents(client, there)["session:l"] == [b'{"n":9}'], "left alone"
        assert [each["key"] for each in replicator.of("unfit")] == ["session:l"]
        client.delete(Keyspace(there).data("session:l"))
        assert eventually(lambda: equal(client, client, namespace, there))


def test_a_target_with_memories_of_its_own_is_refused(any_server: Server, namespace: str):
    put(any_server, f"{namespace}-2", Put("memory:a", b'{"value":1}'))
    with replicating(*ends(any_server, namespace)) as replicator:
        assert replicator.process.wait(20) == 2
        assert "--merge" in replicator.complaint()


# --- in all ---------------------------------------------------------------------------------------


def test_a_memory_at_the_target_reads_what_was_replicated(any_server: Server, namespace: str):
    with Memory(url=any_server.url, namespace=namespace, **QUICK) as here:
        here.plan = {"steps": [1, 2]}
    assert main(["replicate", *ends(any_server, namespace), "--for", "0.3"]) == 0
    with Memory(url=any_server.url, namespace=f"{namespace}-2", **QUICK) as there:
        assert there.plan == {"steps": [1, 2]}
        assert sorted(there.keys()) == ["plan"], "the replicator's own record is none of ours"


@pytest.mark.soak
@pytest.mark.timeout(SOAK_SECONDS + 780)
def test_for_a_long_time_with_everything_dying(pair: tuple[Server, Server], namespace: str, tmp_path: Path):
    one, other = pair
    with ExitStack() as stack:
        source, target = (stack.enter_context(closing(each.client())) for each in pair)
        both = writers(one, namespace, tmp_path, stack)
        end = time.monotonic() + SOAK_SECONDS
        while time.monotonic() < end:
            with replicating(one.url, other.url, "--namespace", namespace) as replicator:
                time.sleep(2)
                one.restart()
                time.sleep(2)
                other.restart()
                time.sleep(1)
                replicator.kill()
        with replicating(one.url, other.url, "--namespace", namespace):
            assert [each.stop() for each in both] == [0, 0]
            check(source, target, namespace, tmp_path)
