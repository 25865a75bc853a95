"""The two ends of a copy: a namespace as all of its partitions, and a session that writes to one of them."""

import re
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from remanence.commands.journals import address_of
from remanence.commands.output import opened
from remanence.commands.relay_rules import Held, Stamp, fresh_id, held
from remanence.commands.stats import INTERNAL, OTHERS, face_of
from remanence.commands.tail import stores_of
from remanence.commands.transfer import can_be_stamped
from remanence.engine import BlockingEngine
from remanence.errors import InvalidArgument, Rejected, WorldError
from remanence.model import Batch, Blank, Op, Record
from remanence.protocols import Ask, Fetch, Length, Lifetime, Store, Told
from remanence.runtime.blocking import BlockingRuntime
from remanence.runtime.blocking import run as driven
from remanence.settings import Settings
from remanence.stores.redis import RedisStore
from remanence.stores.routes import Route, routes_to
from remanence.stores.rules import RELAY
from remanence.wire.keys import Keyspace, partition_of
from remanence.wire.redis import blocking_connect
from remanence.wire.sqlite import Database

PATIENCE: Final = 5.0
"""Seconds one trip may take until its server counts as away."""
MOST_OPS: Final = 128
MOST_BYTES: Final = 1 << 20
OWN: Final = "remanence:{relay}:"
"""What the keys of our own records begin with: left out of exports, counts and copies like all of Remanence's own."""
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,40}")
_STAMP: Final = re.compile(rb"([A-Za-z0-9_-]{22})([0-9]{16})")


class TakenOver(Rejected):
    """Another copy or replication of the same name began to write to the target: this one must end."""


class Forgotten(WorldError):
    """The target has not all that this session wrote: it must begin again from what is there."""


# --- arguments ----------------------------------------------------------------------------------


def configure_ends(parser: ArgumentParser) -> None:
    """The arguments that copying and replicating have in common."""
    parser.add_argument("source", metavar="SOURCE", help="a server's URL, or sqlite:DIR for the file in a folder")
    parser.add_argument("target", metavar="TARGET", help="as SOURCE")
    parser.add_argument("--to-namespace", metavar="NAME", help="tenant at the target (as at the source)")
    parser.add_argument("--prefix", default=None, metavar="TEXT", help="only keys that begin with this")
    parser.add_argument("--merge", "--yes", action="store_true", help="into a target that has memories of its own")
    parser.add_argument("--replace", action="store_true", help="what does not fit at the target gives way, as lists do")
    parser.add_argument("--name", type=_name, default="main", help="of two with one name, the second ends the first")


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ArgumentTypeError("must be up to 40 letters, digits, dashes and underscores")
    return text


def settings_of(call: Namespace) -> tuple[Settings, Settings]:
    """The settings of both ends. Raises `InvalidArgument` where both are the same place."""
    for option in ("url", "path", "backend"):
        if getattr(call, option) is not None:
            raise InvalidArgument(f"name both ends instead of --{option}: SOURCE TARGET")
    source = _settings(call.source, call.namespace)
    return source, _settings(call.target, source.namespace if call.to_namespace is None else call.to_namespace)


def _settings(end: str, namespace: str | None) -> Settings:
    options: dict[str, Any] = {"namespace": namespace} if namespace is not None else {}
    scheme, _, rest = end.partition(":")
    if scheme == "sqlite":
        if not rest:
            raise InvalidArgument("sqlite: needs the folder of the file behind it, as in sqlite:/var/lib/agents")
        return Settings.build(backend="sqlite", path=rest, **options)
    return Settings.build(backend="redis", url=end, **options)


@contextmanager
def both_ends(call: Namespace) -> Iterator[tuple["Place", "Place"]]:
    """Source and target, opened."""
    here, there = settings_of(call)
    with opened(here) as one, opened(there) as other:
        if (one.place, here.namespace) == (other.place, there.namespace):
            raise InvalidArgument(f"source and target are the same: {one.place}")
        source, target = Place(here, one, call.prefix), Place(there, other, call.prefix)
        try:
            yield source, target
        finally:
            source.close()
            target.close()


# --- an end -------------------------------------------------------------------------------------


class Place:
    """One end: what it holds, key by key, across its partitions. Every method raises `WorldError`."""

    def __init__(self, settings: Settings, engine: BlockingEngine, prefix: str | None) -> None:
        """`prefix` None: everything of a file or a namespace; on a server without one, the faces' keys."""
        self.settings = settings
        self.name = engine.place + (f" ({settings.namespace})" if settings.namespace else "")
        self.stores = stores_of(engine.gateway)
        self._store = engine.gateway.store
        self.prefix = prefix or ""
        plain = settings.backend == "redis" and not settings.namespace and len(self.stores) == 1
        self._only_faces = prefix is None and plain
        self._graves: _FileGraves | _ServerGraves = (
            _FileGraves(engine.place) if settings.backend == "sqlite" else _ServerGraves(settings)
        )

    def part(self, key: str) -> int:
        """The partition of a key."""
        return partition_of(key, len(self.stores)) if len(self.stores) > 1 else 0

    def read(self, asks: Sequence[Ask]) -> list[Told]:
        """Answers, as `Store.read`."""
        return driven(self._store.read(asks, limit()))[0] if asks else []

    def held(self, keys: Sequence[str]) -> list[Held]:
        """What is at each key. Tombstones are looked at first: then what is there belongs to them, or is newer."""
        if not keys:
            return []
        dead = self._graves.find(keys, [self.part(key) for key in keys])
        told = self.read([ask for key in keys for ask in (Fetch(key), Lifetime(key), Length(key))])
        found = zip(told[::3], told[1::3], told[2::3], dead, strict=True)
        return [held(one, left, length, each, _ours(one)) for one, left, length, each in found]

    def expected(self) -> int | None:
        """How many keys there may be; None where only the pass can tell."""
        return None if self.prefix else int(driven(self._store.facts(limit()))["keys"])

    def pages(self) -> Iterator[list[str]]:
        """Every key that is to be copied, by pages; now and then one twice."""
        cursor = ""
        while True:
            keys, cursor = driven(self._store.scan(self.prefix, cursor, 500, limit()))
            yield [key for key in dict.fromkeys(keys) if self._scanned(key)]
            if not cursor:
                return

    def _scanned(self, key: str) -> bool:
        return self.wants(key) and not (self._only_faces and face_of(key, self.settings) == OTHERS)

    def wants(self, key: str) -> bool:
        """Whether a key of the change log is to be followed."""
        return key.startswith(self.prefix) and face_of(key, self.settings) != INTERNAL and _is_text(key)

    def close(self) -> None:
        """Let go of what was opened beside the engine."""
        self._graves.close()


def limit(seconds: float = PATIENCE) -> float:
    """Until when a trip that begins now may take."""
    return time.monotonic() + seconds


def _is_text(key: str) -> bool:
    """Whether a name can be one of ours: others are bytes that are no text."""
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return bool(key)


def _ours(told: Told) -> bool:
    return isinstance(told, Record) and can_be_stamped(told.body)


# --- tombstones ---------------------------------------------------------------------------------


class _ServerGraves:
    """Tombstones of a server: read at their own names, which are no keys of the namespace."""

    def __init__(self, settings: Settings) -> None:
        runtime = BlockingRuntime()
        self._routes: list[Route] = routes_to(address_of(settings), blocking_connect, runtime, settings)
        self._stores = [RedisStore(route.connect, runtime, Keyspace(""), pool=1) for route in self._routes]

    def find(self, keys: Sequence[str], parts: Sequence[int]) -> list[Stamp | None]:
        """The tombstone of each key."""
        found: list[Stamp | None] = [None] * len(keys)
        for part in sorted(set(parts)):
            places = [at for at, each in enumerate(parts) if each == part]
            asks = [Fetch(self._routes[part].keys.tombstone(keys[at])) for at in places]
            told, _ = driven(self._stores[part].read(asks, limit()))
            for at, each in zip(places, told, strict=True):
                found[at] = _stamp(each.body) if isinstance(each, Record) else None
        return found

    def close(self) -> None:
        """Close the links."""
        for store in self._stores:
            driven(store.close())


def _stamp(text: bytes) -> Stamp | None:
    match = _STAMP.fullmatch(text)
    return (match[1].decode(), int(match[2])) if match else None


class _FileGraves:
    """Tombstones of a file."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._database: Database | None = None

    def find(self, keys: Sequence[str], parts: Sequence[int]) -> list[Stamp | None]:
        """The tombstone of each key."""
        if self._database is None:
            if not Path(self._path).exists():
                return [None] * len(keys)
            self._database = Database(self._path, busy_timeout=PATIENCE, read_only=True)
            if not self._database.run("SELECT 1 FROM sqlite_schema WHERE name = 'tombstones'"):
                self.close()  # nobody has used it yet
                return [None] * len(keys)
        find, now = "SELECT etag, hlc FROM tombstones WHERE key = ? AND expires_at > ?", int(time.time() * 1000)
        rows = [self._database.run(find, (key, now)) for key in keys]
        return [(row[0][0], row[0][1]) if row else None for row in rows]

    def close(self) -> None:
        """Close the file."""
        if self._database is not None:
            self._database.close()
            self._database = None


# --- writing ------------------------------------------------------------------------------------


class Session:
    """Writes to one partition of the target, each op once, as long as no other session of its name does."""

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._lineage = f"{RELAY}{name}"
        self._nonce = fresh_id()
        self._seq = 0
        self._ops: list[Op] = []
        self._bytes = 0

    def begin(self) -> None:
        """Become the one session, unless another did after us; what was not sent yet is forgotten.

        Afterwards what the target holds is all that this session will ever have written to it.
        """
        self._ops, self._bytes = [], 0
        reached = driven(self._store.read([], limit(), [self._lineage]))[1][0]
        if not self._seq or reached.seq < self._seq:  # for the first time, or it forgot us
            self._seq = driven(self._store.open(self._lineage, self._nonce, limit())).seq
        else:
            self._seq = reached.seq
        self._send([Op(fresh_id(), 0, Blank(OWN))])  # so that whoever forgot us can be told from who replaced us

    def check(self) -> None:
        """Raises `Forgotten` where the target holds less than was written, or what another wrote since."""
        if driven(self._store.read([], limit(), [self._lineage]))[1][0].seq != self._seq:
            raise Forgotten("the target does not have all that was written to it, or another writes there")

    def add(self, op: Op, size: int) -> int:
        """Put an op behind those that wait, and send them where they are enough; how many had no effect."""
        self._ops.append(op)
        self._bytes += size
        return self.flush() if len(self._ops) >= MOST_OPS or self._bytes >= MOST_BYTES else 0

    def flush(self) -> int:
        """Send what waits; how many of the ops sent had no effect."""
        ops, self._ops, self._bytes = self._ops, [], 0
        return self._send(ops) if ops else 0

    def _send(self, ops: list[Op]) -> int:
        outcome = driven(self._store.apply(Batch(self._lineage, self._nonce, self._seq + 1, ops), limit()))
        if outcome.status == "fenced":
            reached = driven(self._store.read([], limit(), [self._lineage]))[1][0]
            if reached.seq >= self._seq and reached.seq:
                raise TakenOver("another copy or replication of this --name writes to the target now: this one ends")
        if outcome.status != "ok":
            raise Forgotten("the target does not have all that was written to it")
        self._seq = outcome.seq
        return sum(result != "ok" for result in outcome.results)
