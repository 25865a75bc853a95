"""The store on one Redis or Valkey server: scripts for writes, pipelines for reads."""

from collections.abc import Mapping, Sequence
from typing import Any

from remanence.model import (
    BEGINNING,
    Batch,
    Change,
    Changes,
    Cursor,
    Erasure,
    Outcome,
    Reached,
    Seen,
    Watermark,
)
from remanence.protocols import Ask, Fetch, Length, Lifetime, Runtime, Tail, Told, Versions
from remanence.stores.redis_erasures import Erasures, Exchange
from remanence.stores.redis_words import answer, checked, executed, fields_of, op_of, outcome_of, results_of, text_of
from remanence.wire.keys import Keyspace, glob_literal
from remanence.wire.pool import LinkPool, Slot
from remanence.wire.redis import Command, Connect, Link
from remanence.wire.refusals import Refusal
from remanence.wire.scripts import Script, Words

MANY = 8
"""Documents from which on one command for all is quicker than one for each."""


class _Flight:
    """A batch on its way. See `Flight`."""

    __slots__ = ("_batch", "_deadline", "_pool", "_script", "_slot", "_words")

    def __init__(self, pool: LinkPool, script: Script, words: Words, batch: Batch, deadline: float) -> None:
        self._pool = pool
        self._slot = Slot()
        self._script = script
        self._words = words
        self._batch = batch
        self._deadline = deadline

    def depart(self) -> bool:
        """See `Flight.depart`."""
        link = self._pool.take_idle(self._slot)
        if link is None:
            return False
        link.post([self._words], self._deadline)
        return True

    async def outcome(self) -> Outcome:
        """See `Flight.outcome`."""
        link = self._slot.link
        assert link is not None, "departed"
        reply = (await link.answer(1, self._deadline))[0]
        if isinstance(reply, Refusal):
            reply = await self._script.reply(reply, link, self._words, self._deadline)
        self._pool.give_back(self._slot)
        return outcome_of(self._batch, reply)

    def drop(self) -> None:
        """See `Flight.drop`."""
        self._pool.lose(self._slot)


class RedisStore:
    """Records and lists on one server, at the names `Keyspace` spells. See `Store` for the contract."""

    def __init__(
        self,
        connect: Connect,
        runtime: Runtime,
        keyspace: Keyspace,
        *,
        pool: int = 4,
        log_length: int = 100_000,
        tombstone_ttl: float = 604800.0,
        watermark_ttl: float = 2592000.0,
        history: int = 0,
    ) -> None:
        """`pool` links for reads beside the one for writes; lifetimes in seconds; `history`: earlier versions kept."""
        self.generation = 0

        async def counted(deadline: float) -> Link:
            link = await connect(deadline)
            self.generation += 1
            return link

        self._keys = keyspace
        self._writer = LinkPool(counted, runtime, 1)
        self._readers = LinkPool(counted, runtime, pool)
        self._follower = LinkPool(connect, runtime, 1)  # one of its own, for it is blocked nearly always
        self._publish: str | None = None
        self._history = history
        self._limits = f"{f'/{history}' if history else ''} {log_length} {int(tombstone_ttl * 1000)}"
        self._watermark_ms = str(int(watermark_ttl * 1000))
        self._apply, self._open, self._forward, self._erase = (
            Script(f"{name}.lua") for name in ("apply", "open", "forward", "erase")
        )
        self._erasures = Erasures(keyspace, runtime.wall, watermark_ttl)

    async def open(self, lineage: str, nonce: str, deadline: float) -> Watermark:
        """See `Store.open`."""
        words = self._open.words("2", self._keys.watermark(lineage), self._keys.log, nonce, self._watermark_ms)
        reply = await self._writer.use(deadline, lambda link: self._open.call(link, words, deadline))
        seq, highest, last, clock = reply
        first, op_id, results = last.split(b" ", 2)
        return Watermark(
            seq=int(seq),
            op_id=op_id.decode(),
            results_from=int(first),
            results=results_of(results, int(seq) - int(first) + 1 if int(first) else 0),
            highest=int(highest),
            clock=int(clock),
        )

    async def forward(self, lineage: str, nonce: str, seq: int, op_id: str, deadline: float) -> bool:
        """See `Store.forward`."""
        words = self._forward.words("1", self._keys.watermark(lineage), nonce, str(seq), op_id)
        reply = await self._writer.use(deadline, lambda link: self._forward.call(link, words, deadline))
        return bool(reply)

    async def apply(self, batch: Batch, deadline: float) -> Outcome:
        """See `Store.apply`."""
        words = self._words(batch)
        reply = await self._writer.use(deadline, lambda link: self._apply.call(link, words, deadline))
        return outcome_of(batch, reply)

    def flight(self, batch: Batch, deadline: float) -> _Flight:
        """See `Store.flight`."""
        return _Flight(self._writer, self._apply, self._words(batch), batch, deadline)

    def _words(self, batch: Batch) -> Words:
        keys, ops = self._keys, batch.ops
        watermark = before = keys.watermark(batch.lineage)
        needed = 0
        if batch.prev is not None:
            before, needed = keys.watermark(batch.prev[0]), batch.prev[1]
        words: Words = ["EVALSHA", self._apply.digest, str(3 + (3 if self._history else 2) * len(ops))]
        words += (watermark, keys.log, before)
        for op in ops:
            words += keys.pair(op.write.key)
        if self._history:
            words += [keys.history(op.write.key) for op in ops]
        words += (batch.lineage, batch.nonce, str(batch.first), str(len(ops)), f"{needed}{self._limits}")
        for op in ops:
            words += fields_of(op)
        return words

    async def read(
        self, asks: Sequence[Ask], deadline: float, marks: Sequence[str] = ()
    ) -> tuple[list[Told], list[Reached]]:
        """See `Store.read`."""
        if len(asks) >= MANY and not marks and all(type(ask) is Fetch for ask in asks):
            return await self._fetched(asks, deadline), []
        commands: list[Command] = [self._command(ask) for ask in asks]
        if marks:
            follow: list[Command] = [("HMGET", self._keys.watermark(lineage), "s", "b") for lineage in marks]
            commands = [("MULTI",), *follow, *commands, ("EXEC",)]
        replies = await self._exchange(commands, deadline) if commands else []
        if marks:
            replies = executed(replies)
        reached = [
            Reached(int(seq or 0), (last or b"  ").split(b" ", 2)[1].decode()) for seq, last in replies[: len(marks)]
        ]
        return [answer(ask, reply) for ask, reply in zip(asks, replies[len(marks) :], strict=True)], reached

    async def _fetched(self, asks: Sequence[Ask], deadline: float) -> list[Told]:
        """Many documents by MGET, which takes the server a third of as many GETs.

        It calls a key of another type missing: those that are missing are asked for alone, to tell these apart.
        """
        names = [self._keys.data(ask.key) for ask in asks]
        values = checked((await self._exchange([("MGET", *names)], deadline))[0])
        missing = [place for place, value in enumerate(values) if value is None]
        if missing:
            alone = await self._exchange([("GET", names[place]) for place in missing], deadline)
            for place, reply in zip(missing, alone, strict=True):
                values[place] = reply if isinstance(reply, Refusal) else None  # what came since is of another moment
        return [answer(ask, value) for ask, value in zip(asks, values, strict=True)]

    def _command(self, ask: Ask) -> Command:
        name = self._keys.data(ask.key)
        match ask:
            case Fetch():
                return ("GET", name)
            case Tail():
                return ("LRANGE", name, str(ask.start), str(ask.stop))
            case Length():
                return ("LLEN", name)
            case Lifetime():
                return ("PTTL", name)
            case Versions():
                return ("LRANGE", self._keys.history(ask.key), "0", "-1")

    async def _exchange(self, commands: Sequence[Command], deadline: float) -> list[Any]:
        return await self._readers.use(deadline, lambda link: link.exchange(commands, deadline))

    async def scan(self, prefix: str, cursor: str, count: int, deadline: float) -> tuple[list[str], str]:
        """See `Store.scan`. One SCAN, never KEYS; a page may be empty before the end."""
        pattern = glob_literal(self._keys.data(prefix)) + "*"
        reply = checked(
            (await self._exchange([("SCAN", cursor or "0", "MATCH", pattern, "COUNT", str(count))], deadline))[0]
        )
        following = reply[0].decode()
        found = [name.decode("utf-8", "surrogateescape") for name in reply[1]]
        names = [self._keys.key(name) for name in found if self._keys.holds(name)]
        return names, "" if following == "0" else following

    async def history(self, lineage: str, limit: int, deadline: float) -> list[tuple[int, str]]:
        """See `Store.history`. Reads the log backwards in pages until `limit` entries are found."""
        found: list[tuple[int, str]] = []
        before, asking = "+", self._asking(self._writer, deadline)
        while len(found) < limit:
            asked: list[Command] = [("XREVRANGE", self._keys.log, before, "-", "COUNT", "1000")]
            (page,) = await asking(asked)
            for _, fields in page:
                op_id, name, seq, _ = fields[1].decode("utf-8", "surrogateescape").split(" ", 3)
                if name == lineage:
                    found.append((int(seq), op_id))
            if len(page) < 1000:
                break
            before = "(" + page[-1][0].decode()
        return found[:limit]

    async def changes(self, after: Cursor, count: int, wait: float, deadline: float) -> Changes:
        """See `Store.changes`. Asks for the cursor's entry behind the reading: what is cut off goes from the front."""
        position = after.position or "0-0"
        read = ["XREAD", "COUNT", str(count), "STREAMS", self._keys.log, position]
        if wait > 0:
            read[3:3] = ["BLOCK", str(max(1, int(wait * 1000)))]
        commands: list[Command] = [read, ("XRANGE", self._keys.log, position, position)]
        pool = self._follower if wait > 0 else self._readers
        told, there = await pool.use(deadline, lambda link: link.exchange(commands, deadline))
        raw = checked(told)[0][1] if checked(told) else []
        entries = [entry for each in raw if (entry := self._change(each)) is not None]
        cursor = after
        if raw:
            last = self._change(raw[-1])
            cursor = last.cursor if last else Cursor(raw[-1][0].decode(), "")
        whole = after == BEGINNING or any(op_of(each) == after.op_id for each in checked(there))
        return Changes(entries, cursor, whole)

    async def latest(self, deadline: float) -> Cursor:
        """See `Store.latest`."""
        reply = (await self._exchange([("XREVRANGE", self._keys.log, "+", "-", "COUNT", "1")], deadline))[0]
        for each in checked(reply):
            return Cursor(each[0].decode(), op_of(each))
        return BEGINNING

    def _change(self, raw: Any) -> Change | None:
        """An entry of the log; None for one that others put there."""
        words = text_of(raw).split(" ", 5)
        if len(words) < 6 or not words[2].isdigit():
            return None
        op_id, lineage, seq, kind, result, name = words
        return Change(raw[0].decode(), op_id, lineage, int(seq), kind, result, self._keys.key(name))

    async def replicated(self, lineage: str, replicas: int, wait: float, deadline: float) -> tuple[Reached, int]:
        """See `Store.replicated`. The small write in between has its place behind all that was applied before."""
        mark = self._keys.watermark(lineage)
        replies = await self._exchange(
            [
                ("HMGET", mark, "s", "b"),
                ("PEXPIRE", mark, self._watermark_ms),
                ("WAIT", str(replicas), str(max(1, int(wait * 1000)))),
            ],
            deadline,
        )
        (seq, last), _, count = map(checked, replies)
        return Reached(int(seq or 0), (last or b"  ").split(b" ", 2)[1].decode()), int(count)

    async def forget(self, erasure: Erasure, lineages: Sequence[str], deadline: float, *, live: bool) -> None:
        """See `Store.forget`."""
        asking = self._asking(self._writer, deadline)
        erasure = await self._erasures.told_at(erasure, asking) if live else erasure
        stamp = (erasure.op_id, f"{erasure.hlc:016d}", self._limits.rpartition(" ")[2], str(int(live)))

        async def sweep(keys: Sequence[str]) -> None:
            names = [name for key in keys for name in (*self._keys.pair(key), self._keys.history(key))]
            words = self._erase.words(str(1 + len(names)), self._keys.log, *names, *stamp)
            await self._writer.use(deadline, lambda link: self._erase.call(link, words, deadline))

        await self._erasures.forget(erasure, lineages, asking, sweep)

    async def erasures(self, holder: str, seen: Seen | None, deadline: float) -> tuple[list[Erasure], Seen]:
        """See `Store.erasures`."""
        # who begins a session asks on its own link: to make another would look as if the server were another
        return await self._erasures.behind(
            holder, seen, self._asking(self._writer if holder else self._readers, deadline)
        )

    async def holders(self, deadline: float) -> Mapping[str, Seen]:
        """See `Store.holders`."""
        return await self._erasures.holders(self._asking(self._readers, deadline))

    def _asking(self, pool: LinkPool, deadline: float) -> Exchange:
        async def exchange(commands: Sequence[Command]) -> list[Any]:
            replies = await pool.use(deadline, lambda link: link.exchange(commands, deadline))
            return [checked(reply) for reply in replies]

        return exchange

    async def publish(self, messages: Sequence[tuple[str, bytes]], deadline: float) -> None:
        """See `Store.publish`. On a cluster the channel is of the namespace's slot, and heard by SSUBSCRIBE."""
        if self._publish is None:
            sharded = (await self.facts(deadline)).get("cluster_enabled") == "1"
            self._publish = "SPUBLISH" if sharded else "PUBLISH"
        # on the link of writes: to make another would look as if the server were another
        commands = [(self._publish, self._keys.data(channel), message) for channel, message in messages]
        await self._asking(self._writer, deadline)(commands)

    async def facts(self, deadline: float) -> Mapping[str, str]:
        """See `Store.facts`."""
        commands: list[Command] = [("INFO",), ("DBSIZE",), ("TIME",), ("XLEN", self._keys.log)]
        replies = await self._writer.use(deadline, lambda link: link.exchange(commands, deadline))
        found: dict[str, str] = {}
        for line in checked(replies[0]).decode("utf-8", "replace").splitlines():
            name, colon, value = line.partition(":")
            if colon:
                found[name] = value
        found["keys"] = str(checked(replies[1]))
        found["log"] = str(checked(replies[3]))
        seconds, micros = checked(replies[2])
        found["time"] = f"{int(seconds)}.{int(micros):06d}"
        found["kind"] = "valkey" if "valkey_version" in found else "redis"
        found["version"] = found.get("valkey_version") or found.get("redis_version", "")
        return found

    async def close(self) -> None:
        """See `Store.close`."""
        self._writer.close()
        self._readers.close()
        self._follower.cut()
