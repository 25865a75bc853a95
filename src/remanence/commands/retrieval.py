"""`remanence bench retrieval PATH`: how much of what answers a question comes back."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from remanence.commands.output import Output
from remanence.errors import InvalidArgument
from remanence.search.embedders import embedder_from
from remanence.testing.bench.remembered import Remembered
from remanence.testing.bench.retrieval import measured, table


def run(paths: Sequence[str], embedder_name: str, output: Output) -> int:
    """Measure each set and print its table. Raises `InvalidArgument` for what is no set."""
    told = {}
    embedder = embedder_from(embedder_name)
    for folder in sets(paths):
        output.note(f"{folder.name}…")
        try:
            measures = measured(folder, lambda: Remembered("none" if embedder is None else embedder))
        except msgspec.DecodeError as error:
            raise InvalidArgument(f"{folder} holds no set of memories and questions: {error}") from error
        told[folder.name] = {category or "all": msgspec.structs.asdict(found) for category, found in measures.items()}
        for line in table(folder.name, measures):
            output.say(line)
    output.facts({"embedder": embedder_name, "sets": told})
    return 0


def sets(paths: Sequence[str]) -> Iterator[Path]:
    """The folders with files of a set: those named, or those in them."""
    if not paths:
        raise InvalidArgument("say where the sets are: remanence bench retrieval PATH")
    for path in map(Path, paths):
        inside = [path] if any(path.glob("*.json")) else sorted({file.parent for file in path.glob("*/*.json")})
        if not inside:
            raise InvalidArgument(f"{path} has no set in it: a folder of JSON files with memories and questions")
        yield from inside
