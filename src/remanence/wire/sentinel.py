"""A primary behind Sentinels: who it is now is asked for each link that is opened.

The Sentinels are asked one after the other; who answered comes first the next time, and others that they
know of are learned. What they name must itself say that it is the primary: during a failover it may not be
so yet, or not any more, and is asked for again until the deadline.
"""

import time
import weakref
from collections.abc import Sequence
from typing import Any, Final

from remanence.errors import AuthenticationFailed, Misconfigured, Unavailable, WorldError
from remanence.protocols import Runtime
from remanence.wire.address import Address, Node
from remanence.wire.cluster import shared
from remanence.wire.redis import Command, Dial, Link
from remanence.wire.refusals import Refusal, refused

PAUSE: Final = 0.05
"""Seconds between two attempts, and as many more by chance at most."""


class Sentinels:
    """The way to one service, for one gateway."""

    def __init__(self, address: Address, dial: Dial, runtime: Runtime, password: str = "") -> None:
        """`password`: the Sentinels' own; where they want one and none is given, the url's login is tried."""
        self._address = address
        self._dial = dial
        self._runtime = runtime
        self._nodes = list(address.nodes)
        self._login: dict[str, Any] = {"username": None, "password": password or None, "db": 0}
        self._primary: Node | None = None
        self._links: weakref.WeakKeyDictionary[Link, Node] = weakref.WeakKeyDictionary()
        self._mutex = runtime.mutex()

    @property
    def known(self) -> list[Node]:
        """The Sentinels, in the order in which they will be asked."""
        return list(self._nodes)

    async def connect(self, deadline: float) -> Link:
        """A link to the primary. Raises what hindered the last attempt."""
        while True:
            try:
                return await self._joined(await self._named(deadline), deadline)
            except Misconfigured:
                raise
            except WorldError:
                pause = PAUSE * (1 + self._runtime.jitter())
                if time.monotonic() + pause >= deadline:
                    raise
            await self._runtime.sleep(pause)

    async def _joined(self, node: Node, deadline: float) -> Link:
        link = await self._dial(self._address.at(node))(deadline)
        try:
            role = (await link.exchange([("ROLE",)], deadline))[0]
        except BaseException:
            link.close()
            raise
        if isinstance(role, Refusal):
            link.close()
            raise refused(role)
        if role[0] != b"master":
            link.close()
            raise Unavailable(f"{node} is no primary yet, or not any more: a failover is under way")
        self._remember(link, node)
        return link

    def _remember(self, link: Link, node: Node) -> None:
        """Links to a former primary must not be used any more: what it answers is outdated."""
        with self._mutex:
            self._links[link] = node
            if node != self._primary:
                self._primary = node
                for each, where in list(self._links.items()):
                    each.outdated = each.outdated or where != node

    async def _named(self, deadline: float) -> Node:
        """The primary as a Sentinel names it."""
        nodes = self.known
        failure: WorldError | None = None
        for at, node in enumerate(nodes):
            limit = shared(deadline, len(nodes) - at)
            try:
                named, others = await self._asked(node, limit)
            except WorldError as error:
                failure = error
                continue
            if named is not None:
                self._prefer(node, others)
                return named
        raise failure or Misconfigured(
            f"no Sentinel of {self._address.name} knows a service of this name: check the url (REDIS_URL)"
        )

    async def _asked(self, node: Node, limit: float) -> tuple[Node | None, list[Node]]:
        try:
            return await self._told_by(node, self._login, limit)
        except AuthenticationFailed:
            options = self._address.options
            if self._login["password"] or not options.get("password"):
                raise
            login = {"username": options.get("username"), "password": options["password"], "db": 0}
            told = await self._told_by(node, login, limit)
            self._login = login
            return told

    async def _told_by(self, node: Node, login: dict[str, Any], limit: float) -> tuple[Node | None, list[Node]]:
        link = await self._dial(self._address.at(node, **login))(limit)
        service = self._address.service
        questions: list[Command] = [
            ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service),
            ("SENTINEL", "SENTINELS", service),
        ]
        try:
            primary, others = await link.exchange(questions, limit)
        finally:
            link.close()
        if isinstance(primary, Refusal):
            raise refused(primary)
        named = None if primary is None else Node(primary[0].decode(), int(primary[1]))
        return named, [] if isinstance(others, Refusal) else read_sentinels(others)

    def _prefer(self, node: Node, others: Sequence[Node]) -> None:
        """Who answered is asked first, then those that the user named, then those that were learned."""
        with self._mutex:
            self._nodes = list(dict.fromkeys([node, *self._nodes, *others]))


def read_sentinels(reply: Any) -> list[Node]:
    """What SENTINEL SENTINELS says: the others. Those of them that are down are asked last anyway."""
    found = []
    for each in reply:
        fields = dict(zip(each[::2], each[1::2], strict=False))
        if fields.get(b"ip") and fields.get(b"port"):
            found.append(Node(fields[b"ip"].decode(), int(fields[b"port"])))
    return found
