"""`ack="replicated"`: the receipt says when the replicas have a write, too."""

import time
from collections.abc import Callable
from contextlib import ExitStack, closing

from remanence import Memory
from remanence.testing.servers import HOST, Server


def follow(replica: Server, primary: Server) -> None:
    """Make one server a replica of another, and wait until it is."""
    with closing(replica.client()) as client:
        client.replicaof(HOST, primary.port)
        limit = time.monotonic() + 20
        while client.info("replication").get("master_link_status") != "up":
            assert time.monotonic() < limit, "the replica does not follow"
            time.sleep(0.02)


def test_a_receipt_says_how_far_it_came(fresh_server: Callable[..., Server], namespace: str):
    with ExitStack() as stack:
        primary, replica = (stack.enter_context(fresh_server()) for _ in range(2))
        memory = stack.enter_context(Memory(url=primary.url, namespace=namespace, ack="replicated", deadline=0.5))
        assert memory.set("x", 1).state == "applied", "there is nobody yet"
        follow(replica, primary)
        assert memory.set("x", 2).state == "replicated"
        assert memory.compare_and_set("x", 2, 3)
        two = stack.enter_context(
            Memory(url=primary.url, namespace=namespace, ack="replicated", replicas=2, deadline=0.5)
        )
        assert two.set("y", 1).state == "applied", "one of two"
        replica.pause()
        started = time.monotonic()
        assert memory.set("x", 4).state == "applied"
        assert time.monotonic() - started < 0.8, "the deadline holds for both"
        replica.resume()
        assert memory.set("x", 5).state == "replicated"
        primary.kill()
        assert memory.set("x", 6).state == "journalled"


def test_where_there_are_no_replicas_it_is_applied():
    with Memory(backend="memory", ack="replicated") as memory:
        assert memory.set("x", 1).state == "applied"
