"""What a relay is made of: the decisions about a key, and the session that writes each op once."""

import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from remanence.commands.relay_ends import Forgotten, Session, TakenOver, both_ends, configure_ends
from remanence.commands.relay_rules import Held, caught_up, difference, newer, plan
from remanence.commands.relaying import KEYS, Relay, pieces
from remanence.engine import BlockingEngine
from remanence.errors import WorldError
from remanence.model import Append, Delete, Op, Put, Record
from remanence.protocols import Tail
from remanence.runtime.blocking import run
from remanence.settings import Settings
from remanence.testing.faults import FaultProxy
from remanence.testing.oracle import QUICK, write
from remanence.testing.servers import Server
from remanence.wire.keys import Keyspace

OLD, NEW = "A" * 22, "B" * 22


# --- the decisions --------------------------------------------------------------------------------


def document(etag: str, hlc: int, ttl: int = -1, dead: tuple[str, int] | None = None) -> Held:
    return Held("document", Record("k", b'{"value":1}', etag, hlc), ttl, 0, dead)


def kinds(source: Held, target: Held, **options: Any) -> tuple[list[str], int | None, str]:
    found = plan("k", source, target, **options)
    return [type(op.write).__name__.lower() for op in found.ops], found.start, found.refusal


PAST, LATER = 10**15, 2 * 10**15
NONE = Held()
LIST = Held("list", None, -1, 5)


@pytest.mark.parametrize(
    ("source", "target", "wanted"),
    [
        (NONE, NONE, ([], None, "")),
        (document(OLD, PAST), NONE, (["put"], None, "")),
        (document(OLD, PAST), document(OLD, PAST), ([], None, "")),
        (document(OLD, PAST, 9000), document(OLD, PAST, 8000), ([], None, "")),
        (document(OLD, PAST, 9000), document(OLD, PAST, 4000), (["touch"], None, "")),
        (document(OLD, PAST, -1), document(OLD, PAST, 4000), (["touch"], None, "")),
        (document(OLD, PAST), document(NEW, LATER), ([], None, "newer")),
        (document(NEW, PAST), document(OLD, PAST), (["put"], None, "")),
        (document(OLD, PAST), Held(dead=(NEW, LATER)), ([], None, "newer")),
        (document(OLD, 0), document(NEW, 0), (["put"], None, "")),
        (document(OLD, 0), document(NEW, PAST), ([], None, "newer")),
        (Held(dead=(NEW, LATER)), document(OLD, PAST), (["delete"], None, "")),
        (Held(dead=(OLD, PAST)), document(NEW, LATER), ([], None, "only")),
        (Held(dead=(OLD, PAST)), Held(dead=(OLD, PAST)), ([], None, "")),
        (Held(dead=(OLD, PAST)), NONE, (["delete"], None, "")),
        (NONE, document(OLD, PAST), ([], None, "only")),
        (LIST, NONE, ([], 0, "")),
        (LIST, Held("list", None, -1, 3), ([], 3, "")),
        (LIST, Held("list", None, -1, 6), ([], None, "longer")),
        (Held("list", None, -1, 5, (NEW, LATER)), LIST, (["delete"], 0, "")),
        (Held("list", None, -1, 5, (NEW, LATER)), Held("list", None, -1, 2, (NEW, LATER)), ([], 2, "")),
        (LIST, document(OLD, PAST), ([], None, "kind")),
        (document(OLD, PAST), LIST, ([], None, "kind")),
        (Held("other"), document(OLD, PAST), ([], None, "")),
    ],
)
def test_what_is_to_be_done(source: Held, target: Held, wanted: tuple[list[str], int | None, str]):
    assert kinds(source, target) == wanted


def test_what_gives_way_and_what_a_late_write_removed():
    assert kinds(LIST, Held("list", None, -1, 6), replace=True) == (["delete"], 0, "")
    assert kinds(LIST, document(OLD, PAST), replace=True) == (["delete"], 0, "")
    assert kinds(document(OLD, PAST), LIST, replace=True) == (["delete", "put"], None, "")
    assert kinds(document(OLD, PAST), Held("other"), replace=True) == ([], None, "kind")
    assert kinds(NONE, document(OLD, PAST), removed=True) == (["delete"], None, "")
    (op,) = plan("k", NONE, document(OLD, PAST), removed=True).ops
    assert isinstance(op.write, Delete) and op.write.base == OLD, "only what was looked at is removed"


def test_what_is_newer_and_what_has_caught_up():
    assert newer((NEW, 2), (OLD, 1)) and newer((OLD, 1), None) and newer((NEW, 1), (OLD, 1))
    assert not newer(None, (OLD, 1)) and not newer((OLD, 2), (OLD, 1)) and not newer((OLD, 1), (NEW, 1))
    assert caught_up(document(OLD, PAST), document(NEW, LATER)) and caught_up(document(OLD, PAST), document(OLD, PAST))
    assert not caught_up(document(NEW, LATER), document(OLD, PAST)) and not caught_up(LIST, NONE)
    assert caught_up(LIST, LIST) and not caught_up(LIST, Held("list", None, -1, 4))
    assert difference(document(OLD, PAST), document(NEW, LATER)) == "newer"
    assert difference(document(NEW, LATER), document(OLD, PAST)) == "content"


# --- the session ------------------------------------------------------------------------------------


def test_a_session_writes_each_op_once_or_not_at_all(server: Server, namespace: str):
    engine = BlockingEngine(Settings.build(url=server.url, namespace=namespace, **QUICK))
    store = engine.gateway.store

    def items() -> list[bytes]:
        told: Any = run(store.read([Tail("l")], time.monotonic() + 5))[0][0]
        return told

    op = Op("A" * 22, 0, Append("l", (b"x",)))
    with FaultProxy(server) as proxy:
        through = BlockingEngine(Settings.build(url=proxy.url, namespace=namespace, **QUICK))
        session = Session(through.gateway.store, "n")
        session.begin()
        proxy.drop_replies(1, after=b"EVALSHA")
        session.add(op, 1)
        with pytest.raises(WorldError):
            session.flush()
        session.begin()
        assert items() == [b"x"], "applied, and its answer lost: what is there tells so"
        session.add(op, 1)
        assert session.flush() == 0 and items() == [b"x", b"x"]
        session.add(op, 1)
        session.begin()
        assert session.flush() == 0 and items() == [b"x", b"x"], "what was decided before is decided anew"
        other = Session(store, "n")
        other.begin()
        session.add(op, 1)
        with pytest.raises(TakenOver):
            session.flush()
        with pytest.raises(TakenOver):
            session.begin()
        assert items() == [b"x", b"x"]
        with closing(server.client()) as client:
            client.delete(Keyspace(namespace).watermark("relay-n"))
        other.add(op, 1)
        with pytest.raises(Forgotten):
            other.flush()
        other.begin()
        other.add(op, 1)
        assert other.flush() == 0
        through.close(0)
    engine.close(0)


@contextmanager
def relaying(server: Server, namespace: str, tick: Callable[[int], None] = lambda keys: None) -> Iterator[Relay]:
    """A relay from a namespace to the one that is called like it with a 2 behind."""
    parser = ArgumentParser()
    configure_ends(parser)
    for option in ("--namespace", "--url", "--path", "--backend"):
        parser.add_argument(option)
    words = [server.url, server.url, "--namespace", namespace, "--to-namespace", f"{namespace}-2"]
    call = parser.parse_args(words)
    with both_ends(call) as (source, target):
        yield Relay(source, target, call, tick, anew=True)


def test_a_key_that_a_scan_shows_twice_is_copied_once(server: Server, namespace: str):
    write(Settings.build(url=server.url, namespace=namespace, **QUICK), Append("session:l", (b"1", b"2")))
    with relaying(server, namespace) as relay, closing(server.client()) as client:
        while not relay.turn(0.0):
            pass
        client.delete(Keyspace(f"{namespace}-2").data("session:l"))
        relay.sync(["session:l", *(f"none{n}" for n in range(KEYS)), "session:l"])
        assert client.lrange(Keyspace(f"{namespace}-2").data("session:l"), 0, -1) == [b"1", b"2"]


def test_what_changes_behind_the_pass_is_followed(server: Server, namespace: str):
    place = Settings.build(url=server.url, namespace=namespace, **QUICK)
    keys = [f"memory:d{n}" for n in range(3 * KEYS)]
    write(place, *(Put(key, b'{"value":1}') for key in keys))
    met: list[int] = []

    def tick(count: int) -> None:
        if not met:
            write(place, *(Put(key, b'{"value":2}') for key in keys))
        met.append(count)

    with relaying(server, namespace, tick) as relay, closing(server.client()) as client:
        while not relay.turn(0.0):
            pass
        assert sum(met) == len(keys)
        found = [client.get(Keyspace(f"{namespace}-2").data(key)) for key in keys]
        assert found == [client.get(Keyspace(namespace).data(key)) for key in keys]


def test_items_are_divided_into_batches_in_order():
    big = b"x" * 700_000
    assert [len(part) for part, _ in pieces([b"a", big, big, b"b", b"c"])] == [2, 3]
    assert [item for part, _ in pieces([b"a", big, big, b"b"]) for item in part] == [b"a", big, big, b"b"]
    assert list(pieces([])) == []
