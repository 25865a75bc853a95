"""What an index asks of one partition's server: each question and each change is one trip."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from remanence.errors import Misconfigured
from remanence.protocols import Runtime
from remanence.search.entries import Command, Entry, Names
from remanence.wire.keys import Keyspace
from remanence.wire.pool import LinkPool
from remanence.wire.redis import Command as Words
from remanence.wire.redis import Connect, Link
from remanence.wire.refusals import TRANSIENT, Refusal, refused
from remanence.wire.scripts import Script

TOGETHER: Final = 25
"""Documents that are changed in one trip: a server takes about 10 ms for so many."""
EFFORT: Final = 20_000
"""Memories, nearest first, that a filter may refuse before the server gives up looking."""
NEEDED: Final = (
    "REMANENCE_INDEX=redis needs vector sets, which Redis has from version 8 on: take one, or set it to local"
)
EXACT: Final = 2_000
"""Pieces of a kind up to which all are compared with a question, which takes a server a millisecond."""
_PAGE: Final = 1000
_EACH: Final = 0.002
"""Seconds that a change may take longer for each of its commands: long texts have many."""
_LEASE_MS: Final = 60_000

Swap = tuple[str, bytes, str, Sequence[Command]]
"""An id, what was seen of it, the version of its record (see `entries.Seen`), and the commands that change it."""


class Part:
    """An index's part in one partition."""

    def __init__(self, keys: Keyspace, connect: Connect, runtime: Runtime, pool: int, deadline: float) -> None:
        """Talks to nobody yet."""
        self.names = Names(keys)
        self._keys = keys
        self._runtime = runtime
        self._deadline = deadline
        self._pool = LinkPool(connect, runtime, pool)
        self._swap = Script("swap.lua")
        self._joined: set[str] = set()

    async def open(self) -> None:
        """Raises `Misconfigured` where the server has no vector sets."""
        (told,) = await self._exchange([("VCARD", self.names.vectors("", ""))])
        if isinstance(told, Refusal):
            if "unknown command" in str(told).lower():
                raise Misconfigured(NEEDED)
            raise refused(told)

    async def makers(self, mine: str) -> list[str]:
        """Whose vectors are kept here, `mine` among them; who is new owes the vectors of all that is there."""
        (told,) = await self._asked([("SMEMBERS", self.names.makers)])
        if mine and (mine not in self._joined or mine.encode() not in told):  # nor is it where the server forgot all
            await self._join(mine)
            self._joined.add(mine)
        return sorted({each.decode() for each in told} | ({mine} if mine else set()))

    async def _join(self, mine: str) -> None:
        joined = f"{mine} joined"
        there, _ = await self._asked([("HEXISTS", self.names.totals, joined), ("SADD", self.names.makers, mine)])
        cursor = "" if there else "0"
        while cursor:
            ((following, page),) = await self._asked(
                [("HSCAN", self.names.entries, cursor, "COUNT", str(_PAGE), "NOVALUES")]
            )
            if page:
                await self._asked([("SADD", self.names.owed(mine), *page)])
            cursor = "" if following == b"0" else following.decode()
        await self._asked([("HSET", self.names.totals, joined, "1")])

    async def entries(self, ids: Sequence[str]) -> list[bytes]:
        """What is held of these documents, b"" for nothing."""
        if not ids:
            return []
        (told,) = await self._asked([("HMGET", self.names.entries, *ids)])
        return [each or b"" for each in told]

    async def swap(self, swaps: Sequence[Swap]) -> list[int]:
        """Change documents that are as they were seen: 1; 0 for one that is not, -1 for one whose record is not."""
        if not swaps:
            return []
        words = [self._words(*each) for each in swaps]
        longer = _EACH * sum(len(commands) for *_, commands in swaps)
        told = await self._exchange(words, longer)
        unknown = [at for at, each in enumerate(told) if isinstance(each, Refusal) and each.word == "NOSCRIPT"]
        if unknown:
            again = await self._exchange([["EVAL", self._swap.text, *words[at][2:]] for at in unknown], longer)
            for at, each in zip(unknown, again, strict=True):
                told[at] = each
        return [int(_checked(each)) for each in told]

    def _words(self, id: str, seen: bytes, version: str, commands: Sequence[Command]) -> list[str | bytes]:
        keys = sorted({str(command[1]) for command in commands} - {self.names.entries})
        told = [word for command in commands for word in (str(len(command)), *command)]
        names = (self.names.entries, self._keys.data(id), *keys)
        return self._swap.words(str(len(names)), *names, id, seen, version, *told)

    async def nearest(
        self, maker: str, kinds: Sequence[str], vector: bytes, count: int, only: str, narrow: bool
    ) -> tuple[dict[str, float], bool]:
        """The ids of the nearest pieces of these kinds with their cosines, and whether there are no more.

        `narrow`: the filter `only` asks for more than that a document lives. Small sets are read through. The graph
        of a larger one leads to what is near, but not always to all: where it gave too little, what is not too large
        is read through as well.
        """
        names = [self.names.vectors(maker, kind) for kind in kinds]
        sizes = dict(zip(names, map(int, await self._asked([("VCARD", name) for name in names])), strict=True))
        ask = ("FP32", vector, "WITHSCORES", "COUNT", str(count), "FILTER", only)
        near = ("EF", str(count), "FILTER-EF", str(max(EFFORT, count)))
        through = {name for name in names if sizes[name] <= (EFFORT if narrow else EXACT)}
        pages = await self._pages([("VSIM", name, *ask, *(("TRUTH",) if name in through else near)) for name in names])
        short = [name for name, page in zip(names, pages, strict=True) if len(page) < min(count, sizes[name])]
        again = [name for name in short if name not in through and sizes[name] <= EFFORT]
        pages += await self._pages([("VSIM", name, *ask, "TRUTH") for name in again])
        found: dict[str, float] = {}
        for page in pages:
            for element, score in page:
                id = element.decode().partition(":")[2]
                found[id] = max(found.get(id, -1.0), 2 * float(score) - 1)
        return found, all(len(page) < count for page in pages)

    async def _pages(self, commands: Sequence[Words]) -> list[list[tuple[bytes, bytes]]]:
        return [list(_pairs(page)) for page in await self._asked(commands)]

    async def counted(self, terms: Sequence[str]) -> tuple[int, int, list[int]]:
        """How many pieces there are, of how many terms, and how many of them hold each of these terms."""
        commands: list[Words] = [("HMGET", self.names.totals, "p", "t")]
        if terms:
            commands.append(("HMGET", self.names.rarity, *terms))
        told = await self._asked(commands)
        pieces, length = (int(each or 0) for each in told[0])
        return pieces, length, [int(each or 0) for each in told[1]] if terms else []

    async def newest(
        self, kind: str, place: tuple[float, str] | None, limit: int, wanted: Callable[[Entry], bool]
    ) -> list[tuple[float, str]]:
        """At most `limit` documents of a kind behind `place` by when they were created, newest first."""
        found: list[tuple[float, str]] = []
        begin, offset = ("+inf" if place is None else repr(place[0])), 0
        while len(found) < limit:
            part = ("LIMIT", str(offset), str(_PAGE), "WITHSCORES")
            (page,) = await self._asked([("ZREVRANGEBYSCORE", self.names.ages(kind), begin, "-inf", *part)])
            rows = [(float(score), id.decode()) for id, score in _pairs(page)]
            rows = [row for row in rows if place is None or row < place]
            held = await self.entries([id for _, id in rows])
            for row, entry in zip(rows, held, strict=True):
                if entry and wanted(msgspec.msgpack.decode(entry, type=Entry)):
                    found.append(row)
            offset += _PAGE
            if len(page) < 2 * _PAGE:
                break
        return found[:limit]

    async def kinds(self) -> list[str]:
        """The kinds that there are, or were."""
        (told,) = await self._asked([("SMEMBERS", self.names.kinds)])
        return sorted(each.decode() for each in told)

    async def living(self, now: float) -> dict[str, int]:
        """How many documents of each kind live."""
        kinds = await self.kinds()
        told = await self._asked(
            [
                command
                for kind in kinds
                for command in (
                    ("ZCARD", self.names.ages(kind)),
                    ("ZCOUNT", self.names.ends(kind), "-inf", repr(now)),
                )
            ]
        )
        return {kind: int(all_) - int(over) for kind, (all_, over) in zip(kinds, _pairs(told), strict=True)}

    async def held(self) -> int:
        """How many documents are held."""
        (told,) = await self._asked([("HLEN", self.names.entries)])
        return int(told)

    async def ended(self, now: float, count: int) -> list[str]:
        """At most `count` ids of each kind whose time is over."""
        kinds = await self.kinds()
        told = await self._asked(
            [
                ("ZRANGE", self.names.ends(kind), "-inf", repr(now), "BYSCORE", "LIMIT", "0", str(count))
                for kind in kinds
            ]
        )
        return [id.decode() for page in told for id in page]

    async def owed(self, maker: str, count: int) -> tuple[list[str], int]:
        """Some ids whose vectors a maker has yet to make, and how many there are."""
        await self.makers(maker)
        name = self.names.owed(maker)
        ids, left = await self._asked([("SRANDMEMBER", name, str(count)), ("SCARD", name)])
        return [id.decode() for id in ids], int(left)

    async def heard(self) -> str | None:
        """Up to where the change log was heard and is in the index; None where not all before it was put in."""
        (told,) = await self._asked([("GET", self.names.filled)])
        return None if told is None else told.decode()

    async def filling(self, who: str) -> bool:
        """Whether `who` shall fill the index: that is to be done, and by nobody else for the next minute."""
        lease = f"{self.names.filled}:lease"
        filled, _, has = await self._asked(
            [("EXISTS", self.names.filled), ("SET", lease, who, "NX", "PX", str(_LEASE_MS)), ("GET", lease)]
        )
        if has != who.encode():
            return False
        await self._asked([("DEL", lease) if filled else ("PEXPIRE", lease, str(_LEASE_MS))])
        return not filled

    async def filled(self, cursor: str) -> None:
        """All up to this place of the log is in the index; whoever filled it lets go of the lease."""
        await self._asked([("SET", self.names.filled, cursor), ("DEL", f"{self.names.filled}:lease")])

    async def reached(self, cursor: str) -> None:
        """The same, where it was filled before."""
        await self._asked([("SET", self.names.filled, cursor, "XX")])

    async def lost(self, cursor: str) -> None:
        """The log does not have this place any more: where nobody has filled the index since, it is to be filled."""
        if await self.heard() == cursor:
            await self._asked([("DEL", self.names.filled)])

    async def _asked(self, commands: Sequence[Words]) -> list[Any]:
        return [_checked(each) for each in await self._exchange(commands)]

    async def _exchange(self, commands: Sequence[Words], longer: float = 0.0) -> list[Any]:
        if not commands:
            return []
        deadline = self._runtime.monotonic() + self._deadline + longer
        return await self._pool.use(deadline, lambda link: _exchanged(link, commands, deadline))

    def close(self) -> None:
        """Close the links that nobody uses now; later calls open others."""
        self._pool.close()


async def _exchanged(link: Link, commands: Sequence[Words], deadline: float) -> list[Any]:
    """The replies. Raises within the link's use what another link may not meet: the next call connects anew."""
    told = await link.exchange(commands, deadline)
    for each in told:
        if isinstance(each, Refusal) and each.word in TRANSIENT:
            raise refused(each)
    return told


def _pairs(page: Sequence[Any]) -> "zip[tuple[Any, Any]]":
    return zip(page[::2], page[1::2], strict=True)


def _checked(reply: Any) -> Any:
    if isinstance(reply, Refusal):
        raise refused(reply)
    return reply
