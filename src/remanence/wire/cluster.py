"""A cluster: which of its servers serves which slot, known once for the whole process.

Servers fail, come back and give slots away. What is known is in doubt from the moment a link was lost or could
not be opened; the next who opens one asks the cluster anew, for everybody, and nobody asks more often than
every `LEAST_PAUSE`. Replies that redirect (MOVED, ASK, CLUSTERDOWN, TRYAGAIN) are errors that pass: the link
they came over is closed, and so what is known is in doubt.
"""

import os
import threading
import time
import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from remanence.errors import DeadlineExceeded, Unavailable, WorldError
from remanence.protocols import Runtime
from remanence.wire.address import Address, Node
from remanence.wire.redis import Connect, Dial, Link
from remanence.wire.refusals import Refusal, refused

LEAST_PAUSE: Final = 0.1
"""Seconds between two questions to the cluster at least, and half as many more by chance."""
MEANWHILE: Final = 0.002
"""Seconds until it is looked whether somebody else's question was answered."""


class Range(NamedTuple):
    """Slots from `first` to `last`, both included, and who takes writes for them."""

    first: int
    last: int
    node: Node


class Topology:
    """Of one cluster. Any thread and any loop may use it; nothing waits while its mutex is held."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.asked = 0
        """How often the cluster was asked."""
        self._ranges: tuple[Range, ...] = ()
        self._nodes: tuple[Node, ...] = ()
        self._mutex = threading.Lock()
        self._asking_until = 0.0
        """When whoever asks now must have an answer; the past where nobody does. Who was interrupted blocks nobody."""
        self._doubts = 1  # nothing is known yet
        self._settled = 0
        """As many doubts had been raised when what is known was asked for."""
        self._suspects: dict[Node, float] = {}
        self._not_before = 0.0
        self._links: weakref.WeakKeyDictionary[Link, tuple[int, Node]] = weakref.WeakKeyDictionary()

    def connect(self, slot: int, dial: Dial, runtime: Runtime) -> Connect:
        """How links to whoever serves a slot are opened."""

        async def connect(deadline: float) -> Link:
            node = await self._serving(slot, dial, runtime, deadline)
            try:
                link = await dial(self.address.at(node))(deadline)
            except WorldError:
                self.doubt(node)
                raise
            link.lost = partial(self.doubt, node)
            with self._mutex:
                self._links[link] = (slot, node)
            return link

        return connect

    def doubt(self, node: Node | None = None) -> None:
        """What is known may be outdated: a link, to `node`, was lost."""
        with self._mutex:
            self._doubts += 1
            if node is not None:
                self._suspects[node] = time.monotonic()

    async def _serving(self, slot: int, dial: Dial, runtime: Runtime, deadline: float) -> Node:
        """Who serves a slot, by what is beyond doubt."""
        while (pause := self._turn(runtime.jitter(), deadline)) is not None:
            if not pause:
                try:
                    await self._ask_anew(dial, runtime, deadline)
                finally:
                    self._asking_until = 0.0
            elif time.monotonic() + pause >= deadline:
                raise DeadlineExceeded(f"{self.address.name} did not say in time who serves slot {slot}")
            else:
                await runtime.sleep(pause)
        node = serving(self._ranges, slot)
        if node is None:
            self.doubt()
            raise Unavailable(f"no server of {self.address.name} serves slot {slot} now: the cluster is not whole")
        return node

    def _turn(self, jitter: float, deadline: float) -> float | None:
        """None: what is known is beyond doubt. 0: the caller is to ask. Else the seconds to wait and look again."""
        with self._mutex:
            if self._settled == self._doubts:
                return None
            now = time.monotonic()
            if now < self._asking_until:
                return MEANWHILE
            if now < self._not_before:
                return self._not_before - now
            self._asking_until = deadline
            self._not_before = now + LEAST_PAUSE * (1 + jitter / 2)
            return 0.0

    async def _ask_anew(self, dial: Dial, runtime: Runtime, deadline: float) -> None:
        """Ask one server after the other; each may take its share of the time."""
        with self._mutex:
            doubts, nodes = self._doubts, self._in_order(runtime)
        failure: WorldError = Unavailable(f"no server of {self.address.name} can be reached")
        for at, node in enumerate(nodes):
            limit = shared(deadline, len(nodes) - at)
            try:
                ranges, known = await self._told_by(node, dial, limit)
            except WorldError as error:
                failure = error
                with self._mutex:
                    self._suspects[node] = time.monotonic()
                continue
            self._learn(ranges, known, doubts)
            return
        raise failure

    def _in_order(self, runtime: Runtime) -> list[Node]:
        """Those whose links were not lost lately first, by chance: one that is cut off must not mislead for long."""
        nodes = dict.fromkeys((*self._nodes, *self.address.nodes))
        return sorted(nodes, key=lambda node: (self._suspects.get(node, 0.0), runtime.jitter()))

    async def _told_by(self, node: Node, dial: Dial, limit: float) -> tuple[list[Range], list[Node]]:
        link = await dial(self.address.at(node))(limit)
        try:
            reply = (await link.exchange([("CLUSTER", "SLOTS")], limit))[0]
        finally:
            link.close()
        if isinstance(reply, Refusal):
            raise refused(reply)
        ranges, nodes = read_slots(reply, node)
        if not ranges:
            raise Unavailable(f"{node} knows of no slots: it is no part of a whole cluster")
        return ranges, nodes

    def _learn(self, ranges: Sequence[Range], nodes: Sequence[Node], doubts: int) -> None:
        with self._mutex:
            self.asked += 1
            self._ranges, self._nodes, self._settled = tuple(ranges), tuple(nodes), doubts
            self._suspects = {node: at for node, at in self._suspects.items() if node in nodes}
            for link, (slot, node) in list(self._links.items()):
                if serving(ranges, slot) != node:
                    link.outdated = True


def serving(ranges: Sequence[Range], slot: int) -> Node | None:
    """Who takes writes for a slot; None where nobody does."""
    return next((each.node for each in ranges if each.first <= slot <= each.last), None)


def read_slots(reply: Any, asked: Node) -> tuple[list[Range], list[Node]]:
    """What CLUSTER SLOTS says: the ranges, and every server, replicas too.

    A server that does not know its own host says nothing, or "?": it is the one that was `asked`.
    """
    ranges: list[Range] = []
    nodes: dict[Node, None] = {}
    for first, last, *servers in reply:
        found = [_named(each, asked) for each in servers]
        ranges.append(Range(int(first), int(last), found[0]))
        nodes |= dict.fromkeys(found)
    return ranges, list(nodes)


def _named(server: Any, asked: Node) -> Node:
    host = (server[0] or b"").decode()
    return Node(asked.host if host in ("", "?") else host, int(server[1]))


def shared(deadline: float, ways: int) -> float:
    """Until when the first of several ways may be tried, so that as much is left for each, and for what follows."""
    now = time.monotonic()
    return now + (deadline - now) / (ways + 1)


# --- one per process and cluster --------------------------------------------------------------------

LOGIN: Final = ("username", "password", "ssl", "socket_timeout")
"""What the options that make a difference begin with."""
_known: "weakref.WeakValueDictionary[tuple[str, str], Topology]" = weakref.WeakValueDictionary()
_registry = threading.Lock()


def topology_of(address: Address) -> Topology:
    """The process's topology of a cluster; another for another login, whose rights may differ."""
    login = {name: str(value) for name, value in address.options.items() if name.startswith(LOGIN)}
    key = (address.name, repr(sorted(login.items())))
    with _registry:
        found = _known.get(key)
        if found is None:
            found = _known[key] = Topology(address)
        return found


def _forget() -> None:
    """A forked child asks for itself: its parent's locks may be held by threads that it does not have."""
    global _registry
    _registry = threading.Lock()
    _known.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
