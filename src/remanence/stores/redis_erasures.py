"""Erasure on a Redis server: its list, its sweep, and who has let go. See `Store.forget`.

The order matters. First the list tells of it; then every session is ended, so that whoever still had writes of
before on their way has to begin a session anew, and to begin one is to ask the list; only then is anything erased.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

from msgspec.structs import replace

from remanence.model import Erasure, Seen
from remanence.stores.rules import RELAY
from remanence.wire.keys import Keyspace, glob_literal
from remanence.wire.redis import Command

PAGE: Final = 500
Exchange = Callable[[Sequence[Command]], Awaitable[list[Any]]]
"""Sends commands and returns their replies, none of them a refusal."""
Sweep = Callable[[Sequence[str]], Awaitable[None]]


class Erasures:
    """What one partition of a namespace knows of erasures."""

    def __init__(self, keys: Keyspace, wall: Callable[[], float], holder_seconds: float) -> None:
        """`holder_seconds`: after so long without a word a journal counts as gone."""
        self._keys = keys
        self._wall = wall
        self._holder_seconds = holder_seconds

    async def forget(self, erasure: Erasure, lineages: Sequence[str], exchange: Exchange, sweep: Sweep) -> None:
        """See `Store.forget`, by the stamp that `told_at` gave it."""
        if all(each.op_id != erasure.op_id for each in await self._listed(exchange)):
            await exchange([("RPUSH", self._keys.erasures, _spelled(erasure))])
        await self._end_sessions(set(map(self._keys.watermark, lineages)), exchange)
        if not erasure.beginning:
            return await sweep([erasure.key])
        async for names in self._scanned(self._keys.data(erasure.key), exchange):
            held = [self._keys.key(name) for name in names if self._keys.holds(name)]
            if held:
                await sweep(held)
        histories = self._keys.history("")
        async for names in self._scanned(histories + erasure.key, exchange):  # of what is deleted already
            if names:
                await sweep([name.removeprefix(histories) for name in names])
        return None

    async def told_at(self, erasure: Erasure, exchange: Exchange) -> Erasure:
        """A live erasure with the server's own time: whose clock is not quite right must not keep what it erased."""
        [(seconds, micros)] = await exchange([("TIME",)])
        return replace(erasure, hlc=max(erasure.hlc, int(seconds) * 1_000_000 + int(micros)))

    async def _end_sessions(self, spared: set[str], exchange: Exchange) -> None:
        relays = self._keys.watermark(RELAY)
        async for names in self._scanned(self._keys.watermarks, exchange):
            others = [name for name in names if name not in spared and not name.startswith(relays)]
            if others:
                await exchange([("HDEL", name, "n") for name in others])

    async def _scanned(self, prefix: str, exchange: Exchange) -> AsyncIterator[list[str]]:
        pattern, cursor = glob_literal(prefix) + "*", "0"
        while True:
            [(following, found)] = await exchange([("SCAN", cursor, "MATCH", pattern, "COUNT", str(PAGE))])
            yield [name.decode("utf-8", "surrogateescape") for name in found]
            cursor = following.decode()
            if cursor == "0":
                return

    async def behind(self, holder: str, seen: Seen | None, exchange: Exchange) -> tuple[list[Erasure], Seen]:
        """See `Store.erasures`."""
        if seen is None:
            await exchange([("HDEL", self._keys.holders, holder)])
            return [], Seen()
        noted = f"{seen.number} {seen.op_id} {self._wall():.0f}"
        note: list[Command] = [("HSET", self._keys.holders, holder, noted)] if holder else []
        start = max(0, seen.number - 1)
        reply = (await exchange([*note, ("LRANGE", self._keys.erasures, str(start), "-1")]))[-1]
        found = [_read(each) for each in reply]
        if seen.number and not (found and found[0].op_id == seen.op_id):  # another list: the server forgot
            start, found = 0, await self._listed(exchange)
        elif seen.number:
            start, found = seen.number, found[1:]
        number = start + len(found)
        last = found[-1].op_id if found else seen.op_id
        return found, Seen(number, last) if number else Seen()

    async def _listed(self, exchange: Exchange) -> list[Erasure]:
        [reply] = await exchange([("LRANGE", self._keys.erasures, "0", "-1")])
        return [_read(each) for each in reply]

    async def holders(self, exchange: Exchange) -> dict[str, Seen]:
        """See `Store.holders`."""
        [reply] = await exchange([("HGETALL", self._keys.holders)])
        pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
        found, gone, now = dict[str, Seen](), list[str](), self._wall()
        for name, noted in pairs:
            number, op_id, heard = noted.decode().split(" ")
            if now - float(heard) < self._holder_seconds:
                found[name.decode()] = Seen(int(number), op_id)
            else:
                gone.append(name.decode())
        if gone:
            await exchange([("HDEL", self._keys.holders, *gone)])
        return found


def _spelled(erasure: Erasure) -> str:
    return f"{erasure.op_id} {erasure.hlc} {'b' if erasure.beginning else 'k'} {erasure.key}"


def _read(entry: bytes) -> Erasure:
    op_id, hlc, kind, key = entry.decode("utf-8", "surrogateescape").split(" ", 3)
    return Erasure(op_id, int(hlc), key, kind == "b")
