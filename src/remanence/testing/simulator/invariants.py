"""What must hold at every moment of a history and at its end (I1–I10, I12, I13 and I15 of the protocol).

The oracle knows what no part of the system knows: each write with the true time at which it was made,
every state the server was in, and what each process was told. It never influences what happens.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from remanence import events
from remanence.model import EXPIRED, OK, REFUSED, STALE, Append, Batch, Change, Delete, Put, Receipt, Write
from remanence.protocols import Lifetime
from remanence.runtime.blocking import run
from remanence.runtime.simulated import Simulation
from remanence.settings import Settings
from remanence.stores.memory import MemoryStore
from remanence.stores.rows import Lineage, Row
from remanence.testing.simulator.deeds import Deed, Moment, WatchedJournal, datable, tokens
from remanence.wire import codec

if TYPE_CHECKING:
    from remanence.testing.simulator.network import Network
    from remanence.testing.simulator.world import Machine, Process

LIVE_SECONDS = 2.0
"""How old a write may be for its lifetime to begin when it is applied."""


class Oracle:
    """Hears everything, and keeps the first violation it finds."""

    def __init__(self, simulation: Simulation, settings: Settings) -> None:
        self.violations: list[str] = []
        self.servers: list[Network] = []
        """One for each partition."""
        self.deeds: dict[str, Deed] = {}
        self.results: dict[str, str] = {}
        """By op_id: what the log of the server as it is now says."""
        self.recorded: set[str] = set()
        """The op_ids of writes that some journal keeps as without effect."""
        self.ever: dict[str, set[str]] = {}
        """By op_id: every result in any state the server was ever in."""
        self.slack = 0.05
        """Seconds by which two writes must be apart for their order in time to count."""
        self.rolled_back = False
        """Whether an older backup took a journal's place."""
        self.damaged = False
        """Whether bytes of a file were changed behind SQLite's back."""
        self.copied = False
        """Whether some journal was copied: order and rewinding are then judged less strictly."""
        self.sent: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self._live: dict[str, bool] = {}
        self._attempts: dict[str, tuple[Moment, Write]] = {}
        self._ran: set[str] = set()
        self._begins: dict[str, tuple[str, int]] = {}
        self._simulation = simulation
        self._settings = settings
        self._files: dict[str, list[Deed]] = {}
        self._open: list[WatchedJournal] = []
        self._may_lose: dict[str, str] = {}
        self._owed: dict[tuple[int, str], int] = {}
        self._given_up: dict[tuple[int, str], int] = {}
        self._passed: list[tuple[str, int, int]] = []
        self._newest: dict[str, Deed] = {}
        self._homes: dict[str, MemoryStore] = {}
        self.forgets = 0
        """How often the server forgot something."""

    def violated(self, text: str) -> None:
        """Note a violation."""
        self.violations.append(f"at {self._simulation.now:.3f} s: {text}")

    # --- what processes do

    def attempted(self, machine: "Machine", entries: Sequence[tuple[str, int, Write]]) -> None:
        """Rows are about to be committed: a process that dies now may have done it or not."""
        moment = Moment(self._simulation.now, machine, machine.clock.boot_id, machine.jumps)
        self._attempts.update((op_id, (moment, write)) for op_id, _, write in entries)

    def journalled(self, journal: WatchedJournal, rows: Sequence[Row]) -> None:
        """Rows were committed."""
        deeds = self._files.setdefault(journal.path, [])
        for row in rows:
            lineage = journal.lineage_of(row.n)
            place = (lineage.name, row.n - lineage.first + 1)
            deed = Deed(row, journal.path, place, self._attempts[row.op_id][0])
            self._begins[lineage.name] = journal.path, lineage.first
            self.deeds[row.op_id] = deed
            deeds.append(deed)

    def opened(self, journal: WatchedJournal) -> None:
        """A file was opened: everything in it must still be there."""
        self._open.append(journal)
        if self.damaged:
            return
        present = dict(journal.database.run("SELECT op_id, n FROM rows"))
        for op_id, n in present.items():
            if op_id not in self.deeds:  # committed, but its process died before it knew
                lineage = journal.lineage_of(n)
                self.journalled(journal, journal.rows(lineage, n - lineage.first, 1, 1 << 30))
        oldest = journal.lineages[0].first - 1  # earlier ones were pruned whole
        pruned = max([oldest, *(each.row(each.pruned) for each in journal.lineages if each.pruned)])
        deeds = self._files.setdefault(journal.path, [])
        excuse = self._may_lose.pop(journal.path, "")
        missing = [deed for deed in deeds if deed.op_id not in present and deed.n > pruned]
        if missing and not excuse:
            self.violated(f"{journal.path} lost write {missing[0].n} ({missing[0].op_id})")
        elif missing and deeds[deeds.index(missing[0]) :] != missing:
            self.violated(f"{journal.path} has a hole at write {missing[0].n}")
        for deed in missing:
            deed.lost = excuse
        self._files[journal.path] = sorted((deed for deed in deeds if not deed.lost), key=lambda deed: deed.n)

    def acknowledged(self, journal: WatchedJournal, lineage: str) -> None:
        """A process believes that the server has more of a lineage than before."""
        heard_since = lineage in self._ran  # else this is an answer from before the server forgot
        lenient = self.copied or self.damaged
        owed = self._owed.pop((id(journal), lineage), 0) if heard_since else 0
        if owed > self._given_up.get((id(journal), lineage), 0) and not lenient:
            self.violated(f"{journal.process.name} goes on with {lineage} without a word of what was forgotten")

    def forked(self, journal: WatchedJournal, lineage: Lineage, keep: int, successor: str) -> None:
        """Rows behind `keep` go on under another name."""
        first = lineage.row(keep + 1)
        self._begins[successor] = journal.path, first
        for n, op_id in journal.database.run("SELECT n, op_id FROM rows WHERE n >= ?", (first,)):
            deed = self.deeds.get(op_id)
            if deed is not None:
                deed.places.append((successor, n - first + 1))

    def heard(self, process: "Process", event: events.Event) -> None:
        """A process told its observers of something."""
        self.counts[type(event).__name__] += 1
        if isinstance(event, events.DataLost):
            self._passed.append((event.lineage, event.first, event.last))
        if isinstance(event, events.DataLost | events.Rewound | events.Forked):
            for journal in self._open:
                if journal.process is process:
                    self._owed.pop((id(journal), event.lineage), None)
                    if isinstance(event, events.DataLost):  # and should the server lose them once more, it was told
                        self._given_up[id(journal), event.lineage] = event.last

    def told(self, receipts: Sequence[Receipt]) -> None:
        """A call returned."""
        for receipt in receipts:
            deed = self.deeds.get(receipt.op_id)
            if deed is None:
                if receipt.state != "rejected":
                    self.violated(f"a receipt for {receipt.op_id}, which no journal has")
                continue
            deed.receipt = receipt
            ever = self.ever.get(receipt.op_id, set())
            if receipt.state == "applied" and not ever & {OK, EXPIRED} and not self.damaged:
                self.violated(f"receipt of {deed.key} says applied, the server said {ever or 'nothing'}")

    def power_lost(self, disk: str) -> None:
        """A machine lost what was not synced."""
        if self._settings.durability != "full":
            self._allow(f"/{disk}/", "power")

    def restored(self, path: str) -> None:
        """An older backup was put in a journal's place."""
        self.rolled_back = True
        self._allow(path, "restored")

    def set_aside(self, path: str) -> None:
        """A damaged journal was put away: what it held is known to be lost."""
        for deed in self._files.pop(path, []):
            deed.lost = "damaged"

    def garbled(self, path: str) -> None:
        """A file was damaged, perhaps so that nobody can tell: what is stored is not judged any more."""
        self.damaged = True
        self._allow(path, "damaged")

    def discarded(self, path: str) -> None:
        """A file that had nothing more to do was deleted."""
        for deed in self._files.pop(path, []):
            if not (self.ever.get(deed.op_id) or self._reported(deed) or self.damaged):
                self.violated(f"{path} was deleted before write {deed.n} ({deed.op_id}) was applied")
            deed.lost = "discarded"

    def _allow(self, prefix: str, excuse: str) -> None:
        for path in self._files:
            if path.startswith(prefix):
                self._may_lose[path] = excuse

    # --- what the server does

    def sending(self, batch: Batch) -> None:
        """A batch leaves a process."""
        for op in batch.ops:
            self.sent[op.op_id] += 1
            self._live[op.op_id] = op.live

    def forgotten(self, before: dict[str, int], after: dict[str, int]) -> None:
        """A server is as it was some time ago; what it had of each lineage before and has after that."""
        self._ran.clear()
        self.forgets += 1
        self.results.clear()
        self._newest.clear()
        for change in self.logged():
            self._note(change)
        for journal in self._open:
            if not journal.process.alive:
                continue
            for lineage in journal.lineages:
                left = after.get(lineage.name, 0)
                if left < before.get(lineage.name, 0) and left < lineage.acked:
                    self._owed[id(journal), lineage.name] = lineage.acked

    def logged(self) -> list[Change]:
        """The logs of all servers, one after the other."""
        return [change for server in self.servers for change in server.store.log()]

    def ran(self, lineage: str) -> None:
        """The server answered a request about a lineage."""
        self._ran.add(lineage)

    def executed(self, store: MemoryStore, before: int, *, late: bool) -> None:
        """The server carried out a request; its log had `before` entries until then."""
        changes = store.log()[before:]
        if self.damaged:
            for change in changes:
                self._note(change)
            return
        if not changes:
            return
        lineage = changes[-1].lineage
        _, ((seq, _),) = run(store.read([], 0.0, [lineage]))
        if seq != changes[-1].seq:
            self.violated(f"the watermark of {lineage} says {seq}, its log {changes[-1].seq}")
        if late:
            self._owed = {key: acked for key, acked in self._owed.items() if key[1] != lineage or acked > seq}
        for change in changes:
            if self._homes.setdefault(change.key, store) is not store:
                self.violated(f"{change.key} is written to a partition that is not its own")
            self._judge(change, late=late)
            self._note(change)
        last = {change.key: change for change in changes if change.result in (OK, EXPIRED)}
        for change in last.values():
            if change.result == OK:
                self._check_effect(store, change, late=late)

    def _note(self, change: Change) -> None:
        """Know of a log entry."""
        deed = self.deeds.get(change.op_id)
        emptied = change.kind == "blank" and deed is not None and not isinstance(deed.write, Put)
        result = REFUSED if emptied else change.result
        self.results[change.op_id] = result
        self.ever.setdefault(change.op_id, set()).add(result)
        if deed is None or change.result != OK or change.kind not in ("put", "delete"):
            return
        newest = self._newest.get(change.key)
        if newest is None or newest.at < deed.at:
            self._newest[change.key] = deed

    def _judge(self, change: Change, *, late: bool) -> None:
        """Whether the server should have done what it did."""
        deed = self.deeds.get(change.op_id)
        if deed is None:  # nobody was told of it: its process died, or its disk was full, while it was sent
            if change.op_id not in self._attempts:
                self.violated(f"{change.key} was written by {change.op_id}, which nobody ever wrote")
            return
        if change.op_id in self.results:
            self.violated(f"{change.op_id} was applied to {change.key} twice")
        refused = deed.receipt is not None and deed.receipt.state == "rejected"
        unaware = self.copied or self.rolled_back  # a copy of the journal was not told
        if refused and change.result == OK and change.kind != "blank" and not unaware:
            self.violated(f"{change.op_id} was rejected, and then applied to {change.key}")
        age = self._simulation.now - deed.at
        same_boot = deed.machine.clock.boot_id == deed.boot and not self.copied
        if change.result == STALE and self.sent[change.op_id] == 1 and age < 1.9 and same_boot and not late:
            self.violated(f"{change.op_id} was dropped as stale {age:.3f} s after it was made")
        if not late:  # what was sent as just made counts as made when it arrives
            self._judge_time(change, deed)

    def _judge_time(self, change: Change, deed: Deed) -> None:
        """A replayed blind write must not replace what was made after it."""
        write, newest = deed.write, self._newest.get(change.key)
        blind = isinstance(write, Put | Delete) and write.base is None
        if not (blind and newest and change.result == OK and change.kind != "blank"):
            return
        if self.copied or not (datable(deed) and datable(newest)):
            return
        lives = isinstance(write, Put) and change.key.startswith("ttl")
        if not self._live.get(change.op_id) and not lives and newest.at > deed.at + self.slack:
            self.violated(
                f"{change.key}: {change.op_id}, made at {deed.at:.3f}, replaced {newest.op_id}, made at {newest.at:.3f}"
            )

    def _check_effect(self, store: MemoryStore, change: Change, *, late: bool) -> None:
        """What the log says must be there."""
        deed = self.deeds.get(change.op_id)
        value = store.dump().get(change.key)
        if change.kind == "put" and isinstance(value, bytes):
            if codec.split(value)[1] != change.op_id:
                self.violated(f"the log says that {change.op_id} wrote {change.key}, but another is stored there")
        elif change.kind == "put" or (change.kind == "delete" and value is not None):
            self.violated(f"{change.key} is not as {change.kind} {change.op_id} left it")
        elif isinstance(value, list) and deed and isinstance(deed.write, Append):
            self._check_items(change, value, deed.write.items)
        if deed is not None and isinstance(deed.write, Put) and deed.write.ttl > 0 and change.kind == "put":
            (left,), _ = run(store.read([Lifetime(change.key)], 0.0))
            self._check_lifetime(deed, deed.write.ttl, left, late=late)

    def _check_items(self, change: Change, value: Sequence[bytes], items: Sequence[bytes]) -> None:
        if any(value.count(item) != 1 for item in items):
            self.violated(f"the items of {change.op_id} are not in {change.key} exactly once")

    def _check_lifetime(self, deed: Deed, ttl: int, left: Any, *, late: bool) -> None:
        same_boot = deed.machine.clock.boot_id == deed.boot
        if late or self.copied or not (same_boot or deed.machine.jumps == deed.jumps):
            return
        wanted = ttl / 1000 - (self._simulation.now - deed.at)
        if abs(left / 1000 - wanted) > LIVE_SECONDS + 1.0:
            self.violated(f"{deed.key} will live {left / 1000:.3f} s more, not {wanted:.3f} s")

    # --- the end

    def finish(self) -> None:
        """Everything has settled: judge what is stored."""
        if self.damaged:
            return
        log = self.logged()
        place = {change.op_id: at for at, change in enumerate(log)}
        for deed in self.deeds.values():
            if deed.op_id not in place and not deed.lost and not self._reported(deed):
                self.violated(f"write {deed.n} ({deed.op_id}) of {deed.key}, made at {deed.at:.3f}, is lost")
            vain = self.results.get(deed.op_id) not in (None, OK, EXPIRED)
            if vain and not deed.lost and deed.op_id not in self.recorded and not (self.copied or self.rolled_back):
                self.violated(f"{deed.op_id} had no effect on {deed.key}, and nobody keeps it")
        for path, deeds in self._files.items():
            order = [place[deed.op_id] for deed in deeds if deed.op_id in place]
            if order != sorted(order) and not self.copied:
                self.violated(f"writes of {path} are applied out of order")
        self._check_conditions(log)
        for server in self.servers:
            for key, value in server.store.dump().items():
                self._check_tokens(key, value)

    def _reported(self, deed: Deed) -> bool:
        """Whether some process said that this was lost, or everything before what it said was."""
        first_of = {name: begin for name, begin in self._begins.items() if begin[0] == deed.path}
        if any(first == 1 and name in first_of and deed.n < first_of[name][1] for name, first, _ in self._passed):
            return True
        return any(
            lineage == name and first <= seq <= last
            for name, first, last in self._passed
            for lineage, seq in deed.places
        )

    def _check_conditions(self, log: Sequence[Change]) -> None:
        """Of several writes that required the same version, one at most took effect."""
        winners: set[tuple[str, str]] = set()
        for change in log:
            deed = self.deeds.get(change.op_id)
            base = getattr(deed.write, "base", None) if deed else None
            if base and base != "-" and change.result == OK and change.kind in ("put", "delete"):
                if (change.key, base) in winners:
                    self.violated(f"two writes replaced the same version of {change.key}")
                winners.add((change.key, base))

    def _check_tokens(self, key: str, value: bytes | list[bytes]) -> None:
        """Every item of a list or document is there once, and none is missing."""
        if key.startswith("list") and isinstance(value, list):
            found = Counter(item.decode() for item in value)
        elif key.startswith("doc") and isinstance(value, bytes):
            document = codec.decode(codec.split(value)[0], key)["value"]
            found = Counter(document["tokens"])
            if document["count"] != len(document["tokens"]):
                self.violated(f"{key} counts {document['count']}, but has {len(document['tokens'])} tokens")
        else:
            return
        wanted = Counter(
            token
            for op_id, (_, write) in self._attempts.items()
            if write.key == key and self.results.get(op_id) == OK
            for token in tokens(write)
        )
        for token in (found - wanted) | (wanted - found):
            self.violated(f"token {token} is {found[token]} times in {key}, not {wanted[token]} times")
