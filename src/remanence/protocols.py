"""The contracts between the rooms: what waits, what stores, how a face reaches a store.

Everything above the wire is written once as coroutines over `Runtime`; nothing else there may wait,
read a clock or draw a random number. Times are seconds; a `deadline` is a point on
`Runtime.monotonic()`, not a duration.
"""

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from remanence.model import (
    Batch,
    Changes,
    Cursor,
    Erased,
    Erasure,
    Kept,
    Notice,
    Op,
    Outcome,
    Reached,
    Reading,
    Receipt,
    Record,
    Seen,
    Wanted,
    Watermark,
    Write,
)

T = TypeVar("T")


class Signal(Protocol):
    """A flag that wakes whoever waits for it. Setting it twice is setting it once."""

    def set(self) -> None:
        """Wake everybody who waits, now and later, until it is cleared."""

    def clear(self) -> None:
        """Let the next wait wait."""

    async def wait(self, timeout: float | None) -> bool:
        """Return True once set, False after `timeout` seconds (None: wait for ever)."""


class Task(Protocol):
    """Something spawned, which can be awaited to its end."""

    async def join(self, timeout: float | None) -> bool:
        """Wait for the end; False when `timeout` seconds passed first."""


class Runtime(Protocol):
    """The only way the core waits, reads clocks, draws random numbers and starts background work."""

    def monotonic(self) -> float:
        """Seconds on a clock that never jumps; the origin is arbitrary."""

    def wall(self) -> float:
        """Seconds since the epoch, as this machine believes them to be."""

    def boottime(self) -> float:
        """Seconds since the machine started, counting those it slept."""

    def boot_id(self) -> str:
        """A name of this start of the machine: equal names, comparable boottimes."""

    def random_bytes(self, count: int) -> bytes:
        """Unpredictable bytes, never the same in two copies of a process or a machine."""

    def jitter(self) -> float:
        """A random factor between 0 and 1."""

    async def sleep(self, seconds: float) -> None:
        """Pause the caller."""

    def turn(self) -> Awaitable[None]:
        """Let calls made at the same moment come along, where there can be any."""

    def signal(self) -> Signal:
        """Make a new flag, not set."""

    def mutex(self) -> AbstractContextManager[Any]:
        """Make a lock for short passages that never wait inside."""

    def spawn(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> Task:
        """Run `work` in the background: a daemon thread or a task. It handles its own errors."""

    def aside(self, work: Callable[[], T]) -> Awaitable[T]:
        """Run `work`, which takes a while and waits for no store, where it holds up nobody but the caller."""

    def shield(self, work: Coroutine[Any, Any, None]) -> Awaitable[None]:
        """Run `work` to its end even if the caller is cancelled meanwhile."""


class Fetch(msgspec.Struct, frozen=True):
    """Ask for the document at `key`. Answer: `Record` or None."""

    key: str


class Tail(msgspec.Struct, frozen=True):
    """Ask for items `start` to `stop` of a list, both included, as LRANGE counts them (-1: the last).

    Answer: list of bytes, empty where there is no list.
    """

    key: str
    start: int = 0
    stop: int = -1


class Length(msgspec.Struct, frozen=True):
    """Ask how many items the list at `key` has. Answer: int, 0 where there is none."""

    key: str


class Lifetime(msgspec.Struct, frozen=True):
    """Ask how long `key` will live. Answer: milliseconds; -1 for ever; -2 where there is nothing."""

    key: str


class Versions(msgspec.Struct, frozen=True):
    """Ask for the earlier versions of the record at `key`. Answer: tuple of `Kept`, newest first, each once.

    The record itself is not among them; where it was deleted, the first of them is that delete.
    """

    key: str


Ask = Fetch | Tail | Length | Lifetime | Versions
Told = Record | None | list[bytes] | tuple[Kept, ...] | int | Exception
"""An answer to an Ask; an exception (`DataError`) concerns that key alone."""


class Flight(Protocol):
    """A batch on its way to a store, in steps: who is interrupted at any point can still `drop` it."""

    def depart(self) -> bool:
        """Send it, without waiting; False, and nothing sent, where the store would have to be waited for first."""

    async def outcome(self) -> Outcome:
        """Wait for the answer, as `Store.apply` does, and raise what it raises."""

    def drop(self) -> None:
        """Want no answer any more: after any error or interruption. Harmless once the answer was had."""


class Store(Protocol):
    """A place that holds records and lists, and remembers how far it has followed each lineage.

        `MemoryStore` is the specification; the contract suite in `remanence.testing.contract` holds every
    store equal to it. Methods raise the `WorldError` family; what was under way is then unknown.
    """

    @property
    def generation(self) -> int:
        """Another number when a new connection was made: what was known of the server may be outdated."""

    async def open(self, lineage: str, nonce: str, deadline: float) -> Watermark:
        """Begin a session: batches of `lineage` with another nonce are refused from now on."""

    async def forward(self, lineage: str, nonce: str, seq: int, op_id: str, deadline: float) -> bool:
        """Set the watermark to `seq` where ops before it are lost for good; False when fenced."""

    async def apply(self, batch: Batch, deadline: float) -> Outcome:
        """Apply ops in order, each once, with watermark and change log, or change nothing.

        An empty `lineage` keeps no watermark: each op is applied as it comes.
        """

    def flight(self, batch: Batch, deadline: float) -> Flight | None:
        """`apply` in two halves, so that its caller can do something while the store works; None where it need not."""

    async def read(
        self, asks: Sequence[Ask], deadline: float, marks: Sequence[str] = ()
    ) -> tuple[list[Told], list[Reached]]:
        """Answer each ask, and say how far each lineage in `marks` was followed, as of one moment."""

    async def scan(self, prefix: str, cursor: str, count: int, deadline: float) -> tuple[list[str], str]:
        """One page of keys beginning with `prefix` (taken literally), and the next cursor, "" at the end.

        A key that exists during the whole scan is returned at least once, possibly twice.
        """

    async def history(self, lineage: str, limit: int, deadline: float) -> list[tuple[int, str]]:
        """The newest (seq, op_id) of a lineage still in the change log, newest first."""

    async def changes(self, after: Cursor, count: int, wait: float, deadline: float) -> Changes:
        """At most `count` entries of the change log behind `after`.

        Where there are none yet, a store that can be waited for waits up to `wait` seconds for the first.
        """

    async def latest(self, deadline: float) -> Cursor:
        """The end of the change log; `BEGINNING` where it is empty."""

    async def replicated(self, lineage: str, replicas: int, wait: float, deadline: float) -> tuple[Reached, int]:
        """How far a lineage was followed, and how many replicas have all of that.

        Waits for `replicas` of them, no longer than `wait` seconds.
        """

    async def forget(self, erasure: Erasure, lineages: Sequence[str], deadline: float, *, live: bool) -> None:
        """Erase what is stored at its keys, and end every session but those of `lineages`.

        From then on `erasures` tells of it, and who begins a session asks that. `live`: of this moment by the
        store's own clock, whatever is there; else only what is not newer than its hlc, and lists, which have no
        time. The second time is as the first.
        """

    async def erasures(self, holder: str, seen: Seen | None, deadline: float) -> tuple[list[Erasure], Seen]:
        """The erasures behind `seen` (all, where that is not in the list any more), and the place behind them.

        Notes that `holder`, a journal, has let go of those up to `seen`; None: that it does not exist any more.
        """

    async def holders(self, deadline: float) -> Mapping[str, Seen]:
        """How far each journal that anybody opened lately has let go of what was erased."""

    async def publish(self, messages: Sequence[tuple[str, bytes]], deadline: float) -> None:
        """Tell whoever subscribed to channels of the namespace; a store without channels does nothing.

        `messages`: each with its channel, told in this order in one trip.
        """

    async def facts(self, deadline: float) -> Mapping[str, str]:
        """Server facts for people: kind, version, memory policy, persistence, used memory, keys."""

    async def close(self) -> None:
        """Let go of connections. Never waits for the server."""


Ack = Literal["auto", "journal", "store", "replicated"]
"""What a write waits for: "auto" the store, or its journal when the deadline passes or the store is
away; "journal" the journal alone; "store" the store, raising when the deadline passes; "replicated" as
"auto", and then its replicas for what is left of the deadline: the receipts say how far it came."""


class Watching(Protocol):
    """Hears of the changes of some keys, in the order of the change log."""

    @property
    def cursor(self) -> str:
        """Where to go on later, behind what was heard so far; "" before anything is known."""

    @property
    def closed(self) -> bool:
        """Whether there is nothing more to come: it was closed, or what it listened to."""

    async def ready(self, timeout: float) -> bool:
        """Wait until nothing that changes from now on is missed; False after `timeout` seconds."""

    @property
    def waiting(self) -> bool:
        """Whether there is something that `next` would give at once, or the past is not read to its end."""

    async def stirred(self, timeout: float) -> bool:
        """Wait until something is `waiting`, and take nothing; False after `timeout` seconds."""

    async def level(self, timeout: float) -> bool:
        """Wait until all that the store has applied by now was told here, or waits to be; False past the time.

        Raises `WorldError` where the store cannot be asked.
        """

    async def next(self, timeout: float | None) -> Notice | None:
        """The next notice; None after `timeout` seconds without one, or when closed."""

    def failed(self, error: str) -> None:
        """Tell observers that the listener's callback raised an error of this type."""

    def close(self) -> None:
        """Hear no more."""


class Merger(Protocol):
    """Says what to store where two processes wrote the same record and one write lost."""

    def claims(self, key: str) -> bool:
        """Whether it merges what is at `key`. Asked while others wait."""

    async def merged(self, key: str, lost: bytes | None, won: bytes | None) -> bytes | None:
        """The body to store, `won` itself to leave it, None to delete; None stands for a delete in what it is given."""


class Gateway(Protocol):
    """How a face reaches its store: writes in, receipts out; reads with their source."""

    @property
    def runtime(self) -> Runtime:
        """How it waits and tells the time."""

    @property
    def store(self) -> Store:
        """The store behind it."""

    async def write(
        self, writes: Sequence[Write], *, ack: Ack | None = None, deadline: float | None = None
    ) -> list[Receipt]:
        """Take writes, all or none, in order. `deadline` is a duration here, None for the setting."""

    async def read(
        self, asks: Sequence[Ask], *, deadline: float | None = None, fresh: bool = False
    ) -> list[Reading[Any]]:
        """Answer each ask, this process's own pending writes included; `fresh` even where near reads are wanted."""

    async def scan(self, prefix: str, cursor: str = "", count: int = 500) -> tuple[list[str], str]:
        """One page of keys, as `Store.scan`, pending writes included."""

    def watch(self, wanted: Wanted, since: str | None = None) -> Watching:
        """Hear of changes from now on, or from a `Watching.cursor` on. Raises `InvalidArgument` for another text."""

    async def forget(self, key: str, *, beginning: bool = False, deadline: float | None = None) -> Erased:
        """Erase what is at `key`, and where `beginning` all that begins like it. See `Forget`."""

    async def erased(self, erasure: str, *, deadline: float | None = None) -> Erased:
        """How far an erasure has come, by the id of its receipt. Raises `InvalidArgument` for one that is not known."""

    async def status(self) -> "Status":
        """Depth, lag, last contact and counters, without asking the server."""

    async def flush(self, timeout: float) -> bool:
        """Wait until nothing is pending; False after `timeout` seconds."""

    async def close(self, timeout: float | None = None) -> None:
        """Flush for at most `timeout` seconds (None: the setting), then let go of everything."""


class Status(msgspec.Struct, frozen=True):
    """The health of a gateway at one moment. Times in seconds, sizes in bytes."""

    available: bool
    ready: bool
    """Whether the server has ever answered in this process."""
    reason: str
    """Why it is not available; "" when it is."""
    pending: int
    pending_bytes: int
    lag: float
    """Age of the oldest pending write."""
    last_contact: float | None
    """Wall time of the server's last answer."""
    retained: int
    """Applied rows kept against a server that forgets."""
    dead_letters: int
    conflicts: int
    journal: str
    """The journal's file, or "volatile", or "" where there is none."""
    durable: bool
    counters: Mapping[str, int] = {}


Observer = Callable[[Any], None]
Closer = Callable[[], Awaitable[None]]
__all__ = [
    "Ack",
    "Ask",
    "Closer",
    "Fetch",
    "Gateway",
    "Length",
    "Lifetime",
    "Merger",
    "Observer",
    "Op",
    "Runtime",
    "Signal",
    "Status",
    "Store",
    "Tail",
    "Task",
    "Told",
    "Versions",
]
