"""The ways to the partitions of a namespace: where each lives, what its keys are called, how links are opened."""

from typing import Final, NamedTuple

from remanence.errors import Misconfigured, WorldError
from remanence.protocols import Runtime
from remanence.settings import Settings
from remanence.wire.address import Address
from remanence.wire.cluster import topology_of
from remanence.wire.keys import Keyspace
from remanence.wire.redis import Command, Connect, Dial, Link
from remanence.wire.refusals import Refusal, refused
from remanence.wire.sentinel import Sentinels

IN_A_CLUSTER: Final = 8
"""Partitions of a namespace in a cluster where no setting says otherwise: a namespace spreads over the usual three
to six primaries, and a process still has only a handful of journals and links."""


def partitions_of(settings: Settings, address: Address) -> int:
    """Into how many partitions the namespace is divided."""
    return settings.partitions or (IN_A_CLUSTER if address.kind == "cluster" else 1)


class Agreement:
    """That all processes divide a namespace into the same number of partitions, for else they would not meet.

    The first one writes the number beside the first partition's data. What has data and no number was written
    undivided. Everybody compares before the first link is used, and again with each new link to the server of
    the first partition: one that forgot is told again.
    """

    def __init__(self, keys: Keyspace, connect: Connect, partitions: int) -> None:
        """`keys` and `connect`: of the first partition."""
        self._keys = keys
        self._connect = connect
        self._partitions = partitions
        self.reached = False
        self.tried = False

    def guarded(self, connect: Connect, *, there: bool) -> Connect:
        """Links that are only had once there is agreement. `there`: they lead to the first partition's server."""

        async def agreed(deadline: float) -> Link:
            if not self.reached and not there:
                await self.reach(deadline)
            link = await connect(deadline)
            if there and (self._partitions > 1 or not self.reached):
                await self._compare(link, deadline)
            return link

        return agreed

    async def reach(self, deadline: float) -> None:
        """Compare over a link of its own. Raises `Misconfigured` naming both numbers where they differ."""
        if not self.reached:
            link = await self._connect(deadline)
            await self._compare(link, deadline)
            link.close()

    async def reach_once(self, deadline: float) -> None:
        """Before the first write: that nothing is journalled in a partition that nobody else knows.

        A server that is away is no hindrance: then the first link is what waits.
        """
        if self.reached or self.tried:
            return
        self.tried = True
        try:
            await self.reach(deadline)
        except Misconfigured:
            self.tried = False
            raise
        except WorldError:
            return

    async def _compare(self, link: Link, deadline: float) -> None:
        try:
            found = await self._found(link, deadline)
            if found != self._partitions:
                raise Misconfigured(
                    f"this namespace has {found} partition(s), and {self._partitions} were asked for: set "
                    f"REMANENCE_PARTITIONS to {found}, as it was when the first memory was stored"
                )
        except BaseException:
            link.close()
            raise
        self.reached = True

    async def _found(self, link: Link, deadline: float) -> int:
        mine, key = str(self._partitions), self._keys.partitions
        if self._partitions == 1:  # which leaves no mark: the documented names are all there is
            (told,) = await _told(link, [("GET", key)], deadline)
            return int(told or 1)
        told, undivided = await _told(link, [("GET", key), ("EXISTS", self._keys.log)], deadline)
        if told is None and not undivided:
            _, told = await _told(link, [("SET", key, mine, "NX"), ("GET", key)], deadline)
        return int(told or 1)


async def _told(link: Link, commands: list[Command], deadline: float) -> list[bytes | int | None]:
    replies = await link.exchange(commands, deadline)
    for reply in replies:
        if isinstance(reply, Refusal):
            raise refused(reply)
    return replies


class Route(NamedTuple):
    """The way to one partition. `part`: the name of its journals' folder, "" where there is only one."""

    keys: Keyspace
    connect: Connect
    part: str
    agreement: Agreement


def routes_to(address: Address, dial: Dial, runtime: Runtime, settings: Settings) -> list[Route]:
    """The ways to all partitions, in order. Talks to nobody yet."""
    count = partitions_of(settings, address)
    tagged = address.kind == "cluster" or count > 1
    spaces = [Keyspace(settings.namespace, at, tagged=tagged) for at in range(count)]
    connects = _connects(address, dial, runtime, settings, spaces)
    agreement = Agreement(spaces[0], connects[0], count)
    divided = address.kind == "cluster"
    return [
        Route(keys, agreement.guarded(connect, there=not at or not divided), part_name(at, count), agreement)
        for at, (keys, connect) in enumerate(zip(spaces, connects, strict=True))
    ]


def part_name(partition: int, partitions: int) -> str:
    """What the folder of a partition's journals is called, beside those of the others."""
    return f"{partition}-of-{partitions}" if partitions > 1 else ""


def _connects(
    address: Address, dial: Dial, runtime: Runtime, settings: Settings, spaces: list[Keyspace]
) -> list[Connect]:
    if address.kind == "cluster":
        topology = topology_of(address)
        return [topology.connect(keys.slot, dial, runtime) for keys in spaces]
    if address.kind == "sentinel":
        return [Sentinels(address, dial, runtime, settings.sentinel_password).connect] * len(spaces)
    return [dial(address)] * len(spaces)
