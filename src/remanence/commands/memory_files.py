"""Memories out of files, and all of them through another embedder: what takes long, and shows how far it is."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.progress import Progress

from remanence.commands.agents import looking
from remanence.commands.consolidate import shown
from remanence.commands.output import Output
from remanence.errors import InvalidArgument
from remanence.runtime.blocking import run as ran
from remanence.settings import Settings


def load(paths: Sequence[str], settings: Settings, output: Output) -> int:
    """Save the memories of JSONL files. Raises `InvalidArgument` naming the file and line at fault."""
    done = 0
    with looking(settings, output) as (agents, _), shown(output) as progress:
        for path in map(Path, paths):
            if not path.is_file():
                raise InvalidArgument(f"{path}: there is no such file")
            try:
                done += ran(agents.load(_lines(path, progress)))
            except InvalidArgument as error:
                raise InvalidArgument(f"{path}: {error}") from error
    output.facts({"loaded": done})
    output.say(f"{done:,} memories loaded")
    return 0


def _lines(path: Path, progress: Progress) -> Iterator[dict[str, Any]]:
    task = progress.add_task(path.name, total=path.stat().st_size)
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            progress.advance(task, len(line))
            if not line.strip():
                continue
            try:
                found = json.loads(line)
            except ValueError:
                raise InvalidArgument(f"line {number} is no JSON") from None
            yield found


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
