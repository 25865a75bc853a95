"""Memories out of files, and all of them through another embedder: what takes long, and shows how far it is."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.progress import Progress

from remanence.commands.agents import looking
from remanence.commands.consolidate import shown
from remanence.commands.output import Output
from remanence.errors import InvalidArgument, UsageError
from remanence.faces.agents.agents import Agents
from remanence.runtime.blocking import run as ran
from remanence.settings import Settings


def load(names: Sequence[str], settings: Settings, output: Output) -> int:
    """Save the memories of JSONL files, once all of their lines can be.

    Raises `InvalidArgument` naming the file and line at fault: then nothing is stored.
    """
    if settings.backend == "memory":
        raise InvalidArgument("backend memory keeps nothing when the command ends: name a server, or sqlite for a file")
    paths = [_file(each) for each in names]
    stored = 0

    def told(count: int) -> None:
        nonlocal stored
        stored = before + count

    try:
        with looking(settings, output) as (agents, _), shown(output) as progress:
            for path in paths:
                _check(agents, path, progress)
            for path in paths:
                before = stored
                ran(agents.load(_memories(path, progress), told))
    except BaseException:  # Ctrl-C, a full disk: what is stored stays, and is told before it is raised again
        if stored:
            output.note(f"stopped: the first {stored:,} memories are stored; load the rest again")
        raise
    output.facts({"loaded": stored})
    output.say(f"{stored:,} {'memory' if stored == 1 else 'memories'} loaded")
    return 0


def _file(name: str) -> Path:
    path = Path(name)
    if path.is_dir():
        raise InvalidArgument(f"{path} is a folder: name the files in it")
    if not path.exists():
        raise InvalidArgument(f"{path}: there is no such file")
    if not path.is_file():
        raise InvalidArgument(f"{path} cannot be read twice, and it is looked through first: make it a plain file")
    return path


def _check(agents: Agents, path: Path, progress: Progress) -> None:
    """Raises `InvalidArgument` unless each line is a memory."""
    faults: list[str] = []
    for number, line in _lines(path, progress, f"checking {path.name}"):
        try:
            agents.loadable(_parsed(line, number), f"line {number}")
        except UsageError as error:
            faults.append(str(error) if not faults else "")
    if faults:
        more = f"; {len(faults) - 1:,} more line(s) cannot be loaded" if len(faults) > 1 else ""
        raise InvalidArgument(f"{path}: {faults[0]}{more}. Nothing was stored")


def _memories(path: Path, progress: Progress) -> Iterator[Any]:
    return (_parsed(line, number) for number, line in _lines(path, progress, path.name))


def _lines(path: Path, progress: Progress, title: str) -> Iterator[tuple[int, bytes]]:
    """The lines that are not empty, with their numbers."""
    task = progress.add_task(title, total=path.stat().st_size)
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            progress.advance(task, len(line))
            if line.strip():
                yield number, line
    progress.remove_task(task)


def _parsed(line: bytes, number: int) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        raise InvalidArgument(f"line {number} is no JSON") from None
    except RecursionError:
        raise InvalidArgument(f"line {number} is nested too deeply") from None


def embed(settings: Settings, output: Output) -> int:
    """Embed anew what another embedder did, or what is owed because it was away. Raises what the embedder does."""
    done = 0
    with looking(settings, output) as (_, engine), shown(output) as progress:
        task = progress.add_task("embedding", total=None)

        async def all_of_it() -> int:
            count = 0
            async for made, left in engine.library(settings).catalogue.reembed():
                count = made
                progress.update(task, completed=made, total=made + left)
            return count

        done = ran(all_of_it())
    output.facts({"embedded": done})
    output.say(f"{done:,} memories embedded anew" if done else "all memories are embedded as they should be")
    return 0
