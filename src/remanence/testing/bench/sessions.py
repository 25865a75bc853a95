"""The cases about session messages, as ratios against lists that plain redis-py writes and reads."""

from typing import Any

from remanence.sync.messages import MemoryClient
from remanence.testing.bench.rounds import Figure, repeated
from remanence.testing.bench.samples import CONTENT, MESSAGE_TEXT, METADATA, Names
from remanence.testing.bench.workbench import Bench, Case, Untrue, drain

SESSION_SECONDS = 3600
MANY = 100
LONG = 20_000
MESSAGES: list[dict[str, Any]] = [{"role": "assistant", "content": CONTENT, "metadata": METADATA}] * MANY


def message(bench: Bench) -> Figure:
    """One message at the end of a session, its lifetime renewed in the same step."""
    count = bench.amount.of(1000)
    with MemoryClient(session_ttl=SESSION_SECONDS, **bench.options()) as ours, bench.naive() as client:
        mine, theirs = Names("s"), Names("naive:session:")

        def push() -> None:
            key = theirs()
            with client.pipeline(transaction=False) as pipeline:
                pipeline.rpush(key, MESSAGE_TEXT)
                pipeline.expire(key, SESSION_SECONDS)
                pipeline.execute()

        def add() -> None:
            ours.add(mine(), "assistant", CONTENT, METADATA)

        return bench.compared(repeated(add, count), repeated(push, count), count)


def hundred(bench: Bench) -> Figure:
    """A hundred messages in one call."""
    count = bench.amount.of(60)
    with MemoryClient(session_ttl=SESSION_SECONDS, **bench.options()) as ours, bench.naive() as client:
        mine, theirs = Names("s"), Names("naive:session:")

        def push() -> None:
            key = theirs()
            with client.pipeline(transaction=False) as pipeline:
                for _ in range(MANY):
                    pipeline.rpush(key, MESSAGE_TEXT)
                pipeline.expire(key, SESSION_SECONDS)
                pipeline.execute()

        return bench.compared(repeated(lambda: ours.add_many(mine(), MESSAGES), count), repeated(push, count), count)


def tail(bench: Bench) -> Figure:
    """The last ten of a long session, as messages; the naive side does not even parse them."""
    count, length = bench.amount.of(500), max(20, bench.amount.of(LONG))
    with MemoryClient(session_ttl=SESSION_SECONDS, **bench.options()) as ours, bench.naive() as client:
        while ours.count("long") < length:
            ours.add_many("long", MESSAGES)
        drain(ours)
        client.rpush("naive:long", *[MESSAGE_TEXT] * length)
        if len(ours.get("long", limit=10)) != 10:
            raise Untrue("the session does not have the ten messages asked for")
        return bench.compared(
            repeated(lambda: ours.get("long", limit=10), count),
            repeated(lambda: client.lrange("naive:long", -10, -1), count),
            count,
        )


SESSIONS = (
    Case("message", "a message with its TTL, against a pipelined RPUSH + EXPIRE", 1.4, "x", message),
    Case("hundred", "100 messages in one call, against one pipeline of 100", 1.2, "x", hundred),
    Case("tail", "last 10 of 20,000 messages, against LRANGE -10 -1", 1.3, "x", tail),
)
