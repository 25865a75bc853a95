"""`remanence copy`: what one end holds the other does, with stamps and lifetimes, whoever writes or dies meanwhile."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from remanence.cli import main
from remanence.commands import copy
from remanence.model import Append, Batch, Delete, Op, Put, Touch, Write
from remanence.protocols import Fetch, Lifetime, Tail
from remanence.runtime.blocking import run
from remanence.settings import Settings
from remanence.sync.state import Memory
from remanence.testing.faults import FaultProxy
from remanence.testing.oracle import QUICK, Task, Writer, eventually, write
from remanence.testing.servers import PortClaim, Server, available_servers
from remanence.wire.keys import Keyspace

Command = Callable[..., tuple[int, Any, str]]
OLD, NEW = "A" * 22, "B" * 22


def contents(client: "redis.Redis", namespace: str) -> dict[str, Any]:
    """Everything in a namespace as bytes, stamps included, but for Remanence's own."""
    keys = Keyspace(namespace)
    found: dict[str, Any] = {}
    for name in client.scan_iter(match=f"{keys.prefix}*", count=1000):
        key = keys.key(name.decode())
        if key.startswith("remanence:{"):
            continue
        kind = client.type(name)
        found[key] = client.lrange(name, 0, -1) if kind == b"list" else client.get(name) if kind == b"string" else kind
    return found


def settings(server: Server, namespace: str) -> Settings:
    return Settings.build(url=server.url, namespace=namespace, **QUICK)


def put(server: Server, namespace: str, *writes: Write) -> None:
    write(settings(server, namespace), *writes)


def words(server: Server, namespace: str, *more: str) -> tuple[str, ...]:
    return ("copy", server.url, server.url, "--namespace", namespace, "--to-namespace", f"{namespace}-2", *more)


def append(key: str, *items: int, ttl: int = 0) -> Append:
    return Append(key, tuple(b'{"n":%d}' % item for item in items), ttl)


# --- what is copied -------------------------------------------------------------------------------


def test_everything_is_copied_with_stamps_and_lifetimes(answered: Command, server: Server, namespace: str):
    put(server, namespace, *(Put(f"memory:d{n}", b'{"value":%d}' % n, 0) for n in range(150)))
    put(server, namespace, Put("memory:short", b'{"value":1}', 60_000), Put("agent:x", b"\x00\x81\xa1a\x01", 0))
    put(server, namespace, append("session:a", *range(300), ttl=90_000), append("session:b", 1), append("session:c", 1))
    put(server, namespace, Delete("memory:d7"), Delete("session:c"))
    with closing(server.client()) as client:
        client.set(Keyspace(namespace).data("memory:foreign"), b'{"value":"by others"}')
        client.hset(Keyspace(namespace).data("memory:hash"), "a", "b")
        code, said, _ = answered(*words(server, namespace, "--json"))
        assert code == 0 and said["differences"] == []
        assert said["left_out"] == 1 and said["verified"] == 155 and said["items"] == 301
        source, target = contents(client, namespace), contents(client, f"{namespace}-2")
        assert source.pop("memory:hash") == b"hash"
        foreign = target.pop("memory:foreign"), source.pop("memory:foreign")
        assert foreign[0].endswith(b'"value":"by others"}')
        assert source == target and len(target) == 153
        there = Keyspace(f"{namespace}-2")
        assert 50_000 < client.pttl(there.data("memory:short")) <= 60_000
        assert 80_000 < client.pttl(there.data("session:a")) <= 90_000
        assert client.pttl(there.data("session:b")) == -1
        written = said["written"]
        assert answered(*words(server, namespace, "--json"))[1]["written"] == 2 < written, "nothing twice"
        assert contents(client, f"{namespace}-2").keys() == target.keys() | {"memory:foreign"}


def test_people_are_told_in_one_line(answered: Command, server: Server, namespace: str):
    put(server, namespace, Put("memory:a", b'{"value":"secret"}'))
    code, out, err = answered(*words(server, namespace))
    assert code == 0 and out == ""
    assert "1 keys compared: all equal" in err and "secret" not in err


@pytest.mark.skipif(len(available_servers()) < 2, reason="one kind of server alone is here")
def test_from_one_kind_of_server_to_another_and_through_a_file(answered: Command, namespace: str, tmp_path: Path):
    first, second, *_ = available_servers()
    file = f"sqlite:{tmp_path / 'file'}"
    with Server(first) as one, Server(second) as other, closing(one.client()) as here, closing(other.client()) as there:
        put(one, namespace, Put("memory:a", b'{"value":1}', 80_000), append("session:x", *range(150), ttl=90_000))
        put(one, "", append("session:x", 1, 2), Put("memory:b", b'{"value":1}'))
        assert answered("copy", one.url, other.url, "--namespace", namespace)[0] == 0
        assert answered("copy", one.url, file, "--namespace", namespace)[0] == 0
        assert answered("copy", file, other.url, "--namespace", namespace, "--to-namespace", "z")[0] == 0
        assert contents(here, namespace) == contents(there, namespace) == contents(there, "z")
        assert 0 < there.pttl(Keyspace("z").data("session:x")) <= 90_000
        # without a namespace: the faces' keys of the server, and not those of its other namespaces and programs
        here.set("app:x", b'{"a":1}')
        assert answered("copy", one.url, other.url, "--to-namespace", "plain")[0] == 0
        assert sorted(contents(there, "plain")) == ["memory:b", "session:x"]


def test_a_prefix_chooses(answered: Command, server: Server, namespace: str):
    put(server, namespace, Put("memory:a", b'{"value":1}'), Put("memory:b", b'{"value":1}'))
    assert answered(*words(server, namespace, "--prefix", "memory:b"))[0] == 0
    with closing(server.client()) as client:
        assert list(contents(client, f"{namespace}-2")) == ["memory:b"]


def test_between_other_numbers_of_partitions(server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch):
    put(server, namespace, *(Put(f"memory:d{n}", b'{"value":%d}' % n) for n in range(40)), append("session:a", 1, 2))
    build = Settings.build

    def divided(*given: Any, **options: Any) -> Settings:
        return build(*given, **options, partitions=3 if options.get("namespace", "").endswith("-2") else 1)

    monkeypatch.setattr(Settings, "build", divided)
    assert main(words(server, namespace)) == 0
    memory = Memory(url=server.url, namespace=f"{namespace}-2", **QUICK)
    with memory:
        assert sorted(memory.keys()) == sorted(f"d{n}" for n in range(40))
        told, _ = run(memory.engine.gateway.store.read([Tail("session:a")], time.monotonic() + 5))
        assert told == [[b'{"n":1}', b'{"n":2}']]


# --- who writes meanwhile -------------------------------------------------------------------------


def test_agents_write_on_while_it_is_copied(any_server: Server, namespace: str, tmp_path: Path):
    put(any_server, namespace, *(Put(f"memory:d{n}", b'{"value":"%s"}' % (b"x" * 200)) for n in range(1500)))
    options: Any = {"url": any_server.url, "namespace": namespace, **QUICK}
    tasks = [
        Task(name=name, oracle=str(tmp_path / name), settings={**options, "path": str(tmp_path / f"j{name}")})
        for name in ("one", "two")
    ]
    with Writer(tasks[0]) as one, Writer(tasks[1]) as two, closing(any_server.client()) as client:
        assert eventually(lambda: client.llen(Keyspace(namespace).data("oracle:list")) > 50, 30)
        assert main(words(any_server, namespace)) == 0, "what is being written is no difference"
        assert client.llen(Keyspace(f"{namespace}-2").data("oracle:list")) > 50
        assert one.stop() == two.stop() == 0
        assert main(words(any_server, namespace)) == 0
        assert contents(client, namespace) == contents(client, f"{namespace}-2")


def test_what_was_deleted_is_deleted_and_does_not_come_back(answered: Command, server: Server, namespace: str):
    put(server, namespace, Put("memory:a", b'{"value":1}'), append("session:l", 1, 2, 3), append("session:m", 1, 2))
    assert answered(*words(server, namespace))[0] == 0
    put(server, namespace, Delete("memory:a"), Delete("session:l"), Delete("session:m"), append("session:m", 1, 2, 9))
    assert answered(*words(server, namespace, "--no-verify"))[0] == 0
    with closing(server.client()) as client, Memory(**_options(server, f"{namespace}-2")) as there:
        assert contents(client, f"{namespace}-2") == {"session:m": [b'{"n":1}', b'{"n":2}', b'{"n":9}']}
        late = Op(OLD, 1_000_000, Put("memory:a", b'{"value":"late"}'), live=False)
        outcome = run(there.engine.gateway.store.apply(Batch("", "", 1, [late]), time.monotonic() + 5))
        assert outcome.results == ("stale",), "the tombstone was copied, too"


def _options(server: Server, namespace: str) -> Any:
    return {"url": server.url, "namespace": namespace, **QUICK}


def test_lifetimes_are_shortened_and_lifted(answered: Command, server: Server, namespace: str):
    put(server, namespace, Put("memory:a", b'{"value":1}', 90_000), append("session:l", 1), append("session:m", 1))
    put(server, namespace, Touch("session:m", 90_000))
    assert answered(*words(server, namespace))[0] == 0
    put(server, namespace, Touch("memory:a", 30_000), Touch("session:l", 20_000), Touch("session:m", 0))
    assert answered(*words(server, namespace))[0] == 0
    with closing(server.client()) as client:
        there = Keyspace(f"{namespace}-2")
        assert 0 < client.pttl(there.data("memory:a")) <= 30_000
        assert 0 < client.pttl(there.data("session:l")) <= 20_000
        assert client.pttl(there.data("session:m")) == -1


def test_a_late_write_whose_lifetime_has_passed_removes_at_both_ends(
    answered: Command, any_server: Server, namespace: str
):
    put(any_server, namespace, Put("memory:a", b'{"value":1}'))
    assert answered(*words(any_server, namespace))[0] == 0
    with Memory(**_options(any_server, namespace)) as here, Memory(**_options(any_server, f"{namespace}-2")) as there:
        passed = Op(NEW, time.time_ns() // 1000, Put("memory:a", b'{"value":2}', -2), live=False)
        outcome = run(here.engine.gateway.store.apply(Batch("", "", 1, [passed]), time.monotonic() + 5))
        assert outcome.results == ("expired",)
        answered("replicate", *words(any_server, namespace)[1:], "--for", "0.5")
        told, _ = run(there.engine.gateway.store.read([Fetch("memory:a"), Lifetime("memory:a")], time.monotonic() + 5))
        assert told == [None, -2]


# --- whoever dies ---------------------------------------------------------------------------------


def started(*given: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "remanence", *given],
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # as from a terminal's shell
    )


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_ended_in_the_middle_it_goes_on_with_nothing_twice(any_server: Server, namespace: str, how: signal.Signals):
    for start in range(0, 14_000, 1000):
        items = tuple(b'{"n":%d,"text":"%s"}' % (n, b"x" * 200) for n in range(start, start + 1000))
        put(any_server, namespace, Append("session:long", items, 90_000))
    with closing(any_server.client()) as client, FaultProxy(any_server) as slow:
        slow.delay(0.01)
        there = Keyspace(f"{namespace}-2").data("session:long")
        _, source, _, *more = words(any_server, namespace)
        for least in (500, 7_000):
            process = started("copy", source, slow.url, *more)
            assert eventually(lambda least=least: client.llen(there) > least, 20, every=0.001)
            process.send_signal(how)
            assert process.wait(10) == (130 if how == signal.SIGINT else -9)
        assert least < client.llen(there) < 14_000, "it was ended in the middle"
        assert main(words(any_server, namespace)) == 0
        assert contents(client, namespace) == contents(client, f"{namespace}-2")
        assert 0 < client.pttl(there) <= 90_000


def test_a_source_that_goes_away_is_waited_for(any_server: Server, namespace: str):
    with Server(persistence="aof", fsync="always") as source, closing(any_server.client()) as client:
        put(source, namespace, *(append("session:long", *range(n, n + 1000)) for n in range(0, 30_000, 1000)))
        process = started("copy", source.url, any_server.url, "--namespace", namespace)
        there = Keyspace(namespace).data("session:long")
        assert eventually(lambda: client.llen(there) > 500, 20, every=0.001)
        source.restart()
        assert process.wait(30) == 0
        with closing(source.client()) as here:
            assert contents(here, namespace) == contents(client, namespace)


def test_an_end_that_stays_away_ends_it_with_exit_code_3(
    answered: Command, any_server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(copy, "PATIENCE", 0.3)
    claim = PortClaim()
    code, _, err = answered(
        "copy", any_server.url, f"redis://:sesame@127.0.0.1:{claim.number}/0", "--namespace", namespace
    )
    claim.release()
    assert code == 3 and "run it again" in err and "sesame" not in err


# --- what does not fit ----------------------------------------------------------------------------


def test_memories_of_the_targets_own_are_not_touched_unasked(answered: Command, server: Server, namespace: str):
    put(server, namespace, Put("memory:a", b'{"value":1}'), Put("memory:b", b'{"value":1}'))
    put(server, f"{namespace}-2", Put("memory:b", b'{"value":2}'), Put("memory:c", b'{"value":2}'))
    with closing(server.client()) as client:
        before = contents(client, f"{namespace}-2")
        code, _, err = answered(*words(server, namespace))
        assert code == 2 and "--merge" in err
        assert contents(client, f"{namespace}-2") == before
        code, said, _ = answered(*words(server, namespace, "--merge", "--json"))
        assert code == 0 and said["of_its_own"] == 2
        after = contents(client, f"{namespace}-2")
        assert after == {**before, "memory:a": contents(client, namespace)["memory:a"]}, "the newer one wins"


def test_a_list_that_is_another_is_told_and_left_alone_unless_it_may_be_replaced(
    answered: Command, any_server: Server, namespace: str
):
    put(any_server, namespace, append("session:l", 1, 2, 3), append("session:m", 1), Put("memory:k", b'{"value":1}'))
    there = f"{namespace}-2"
    put(any_server, there, append("session:l", 1, 8), append("session:m", 1, 2), append("memory:k", 1))
    with closing(any_server.client()) as client:
        before = contents(client, there)
        code, said, _ = answered(*words(any_server, namespace, "--merge", "--json"))
        assert code == 1 and contents(client, there) == before
        assert {each["key"]: each["why"] for each in said["differences"]} == {
            "session:l": "a list with other items at the target",
            "session:m": "a list with more items at the target",
            "memory:k": "another kind of value at the target",
        }
        code, out, err = answered(*words(any_server, namespace))
        assert code == 1 and "session:l: a list with other items" in out and "3 differ" in err
        assert answered(*words(any_server, namespace, "--replace"))[0] == 0
        assert contents(client, there) == contents(client, namespace)


def test_the_comparison_finds_what_was_changed_behind_its_back(answered: Command, any_server: Server, namespace: str):
    put(any_server, namespace, append("session:l", 1, 2, 3), Put("memory:k", b'{"value":1}'))
    assert answered(*words(any_server, namespace))[0] == 0
    with closing(any_server.client()) as client:
        name = Keyspace(f"{namespace}-2").data("session:l")
        client.lset(name, 1, b'{"n":7}')  # in the middle: neither its length nor its last item tell
        code, said, _ = answered(*words(any_server, namespace, "--json"))
        assert code == 1
        assert said["differences"] == [{"key": "session:l", "why": "a list with other items at the target"}]
        assert answered(*words(any_server, namespace, "--no-verify"))[0] == 0


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("redis://h/0", "redis://h/0"), "same"),
        (("redis://h/0", "sqlite:"), "folder"),
        (("redis://h/0", "ftp://h"), "url"),
        (("redis://h/0", "sqlite:/x", "--url", "redis://h/0"), "--url"),
        (("redis://h/0", "sqlite:/x", "--name", "a b"), "--name"),
        (("redis://h/0",), "TARGET"),
    ],
)
def test_a_wrong_call_is_refused(answered: Command, given: tuple[str, ...], told: str):
    code, _, err = answered("copy", *given)
    assert code == 2 and told in err
