"""Parts of processes: those that write and read, and those that listen. Each checks what it is told."""

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from remanence.errors import Closed, JournalFull, Unavailable
from remanence.model import ABSENT, Append, Delete, Edit, Patch, Put, Reading, Receipt, Record, Write
from remanence.protocols import Fetch, Tail
from remanence.runtime.simulated import Cancelled
from remanence.testing.simulator.deeds import tokens
from remanence.testing.simulator.world import Process
from remanence.wire import codec
from remanence.wire.sqlite import FileDamaged

if TYPE_CHECKING:
    from remanence.testing.simulator.histories import History

CANCEL = "cancel"
"""The fault that callers make themselves: they lose patience, at any await."""
DEADLINE = 1.0
"""Seconds within which a write must return."""


class Caller:
    """A part of a process that writes and reads, and checks what it is told."""

    def __init__(self, history: "History", process: Process, chance: random.Random) -> None:
        self._history = history
        self._process = process
        self._store = process.gateway
        self._chance = chance
        self._oracle = history.oracle
        self._simulation = history.world.simulation

    async def run(self) -> None:
        """Call and pause, until the faults are over or all is said."""
        for _ in range(self._history.plan.calls):
            if self._history.nemesis.stopped or self._process.closed or self._oracle.violations:
                return
            try:
                await self._call()
            except Closed:
                return
            await self._simulation.sleep(self._chance.choice((0.0, 0.01, 0.1, 1.5)) * self._chance.random())

    async def _call(self) -> None:
        started = self._simulation.now
        try:
            await self._chance.choice((self._write, self._write, self._write, self._read, self._replace))()
        except (JournalFull, Unavailable):
            self._oracle.counts["refused"] += 1
        except FileDamaged:
            assert self._oracle.damaged, "nobody touched a file"
        took = self._simulation.now - started
        if took > DEADLINE * 2 + 0.1:
            self._oracle.violated(f"a call of {self._process.name} took {took:.3f} s")

    async def _write(self) -> None:
        writes = [self._some_write() for _ in range(self._chance.choice((1, 1, 1, 2, 4)))]
        await self._send(writes)

    async def _send(self, writes: Sequence[Write]) -> list[Receipt]:
        ack = self._chance.choice((None, None, "journal", "store"))
        started = self._simulation.now
        if CANCEL in self._history.plan.kinds and self._chance.random() < 0.2:
            receipts = await self._impatient(writes)
        else:
            receipts = await self._store.write(writes, ack=ack)  # type: ignore[arg-type]
        calm = self._history.plan.kinds == (CANCEL,)
        if self._simulation.now - started > (0.2 if calm else DEADLINE + 0.1):
            self._oracle.violated(f"a write took {self._simulation.now - started:.3f} s")
        if self._process.alive:
            self._oracle.told(receipts)
        return receipts

    async def _impatient(self, writes: Sequence[Write]) -> list[Receipt]:
        """Write, and be cancelled meanwhile as a task of asyncio may be: what became of it is then unknown."""
        self._history.world.network.injected[CANCEL] += 1
        task = self._simulation.spawn("impatient", self._store.write(writes), self._process.runtime)
        task.awaited = True
        await self._simulation.sleep(self._chance.choice((0.0, 0.001, 0.004)) * self._chance.random())
        task.cancel()
        await task.join(None)
        if task.error is not None and not isinstance(task.error, Cancelled):
            raise task.error
        return task.result or []

    def _some_write(self) -> Write:
        """Any write; each carries a token that no other has."""
        self._history.tokens += 1
        token = f"t{self._history.tokens}"
        n = self._chance.randrange(2)
        body = b'{"value":"%s"}' % token.encode()
        match self._chance.randrange(10):
            case 9:
                return Patch(f"reg{n}", (Edit(("value",), "append", b'["%s"]' % token.encode()),))  # not a list
            case 0 | 1:
                return Append(f"list{n}", (token.encode(),))
            case 2 | 3 | 4:
                return _patch(f"doc{n}", token)
            case 5:
                return Delete(f"reg{n}")
            case 6:
                return Put(f"ttl{n}", body, ttl=self._chance.choice((5_000, 60_000)))
            case _:
                return Put(f"reg{n}", body)

    async def _replace(self) -> None:
        """Read, then write if nobody else did meanwhile."""
        key = f"cas{self._chance.randrange(2)}"
        (reading,) = await self._store.read([Fetch(key)])
        etag = reading.value.etag if isinstance(reading.value, Record) else ABSENT
        self._history.tokens += 1
        await self._send([Put(key, b'{"value":"t%d"}' % self._history.tokens, base=etag)])

    async def _read(self) -> None:
        """Write, then read it back: whatever happens, the process sees its own writes."""
        write = self._some_write()
        receipts = await self._send([write])
        if write.key.startswith(("reg", "ttl")) or not receipts or not receipts[0].op_id:
            return
        forgot = self._oracle.forgets
        ask = Tail(write.key) if isinstance(write, Append) else Fetch(write.key)
        (reading,) = await self._store.read([ask])
        deed = self._oracle.deeds[receipts[0].op_id]
        (token,) = tokens(deed.write)
        self._history.check_reading(self._process, write.key, reading)
        if forgot != self._oracle.forgets or self._forgetful():
            return
        count = tokens_read(reading).count(token)
        if count != 1:
            self._oracle.violated(
                f"{self._process.name} wrote {token} to {write.key} and reads it {count} times ({reading.source})"
            )

    def _forgetful(self) -> bool:
        """Whether the server has ever forgotten writes, or a file been changed behind our back."""
        return bool(self._oracle.forgets or self._oracle.damaged or self._oracle.rolled_back)


def _patch(key: str, token: str) -> Patch:
    edits = (
        Edit(("value", "tokens"), "append", b'["%s"]' % token.encode()),
        Edit(("value", "count"), "add", b"[1]"),
    )
    return Patch(key, edits, default=b'{"value":{"tokens":[],"count":0}}')


def tokens_read(reading: Reading[Any]) -> list[str]:
    """What a list or a document was read to hold."""
    value = reading.value
    if isinstance(value, list):
        return [item.decode() for item in value]
    if value is None:
        return []
    found: list[str] = codec.decode(value.body, value.key)["value"]["tokens"]
    return found
