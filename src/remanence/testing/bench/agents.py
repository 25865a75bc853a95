"""The cases about agents: saving, loading and finding memories, embedding included.

Memories are made of the words of the embedder's own vocabulary, the frequent ones often, as in any language.
"""

import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Final

from remanence.search.embedders.static import FOLDER
from remanence.sync.agents import MemoryArchitecture
from remanence.testing.bench.rounds import Figure
from remanence.testing.bench.workbench import Bench, Case, Untrue

FEW: Final = 10_000
MANY: Final = 100_000
WORDS: Final = 24
QUERIES: Final = 200
SAVES: Final = 300
_KEPT: Final = "agents"


@cache
def _words() -> list[str]:
    pieces = (FOLDER / "pieces.txt").read_text(encoding="utf-8").split("\n")
    return [each for each in pieces if each.isalpha() and len(each) > 2]


def _texts(seed: int) -> Iterator[str]:
    """Texts without end: word number n about as often as 1/n."""
    chance, words = random.Random(seed), _words()
    while True:
        places = (int(len(words) ** chance.random()) - 1 for _ in range(WORDS))
        yield " ".join(words[place] for place in places)


def _memories(count: int, seed: int = 1) -> Iterator[dict[str, Any]]:
    for number, text in enumerate(islice(_texts(seed), count)):
        task, outcome = text[: len(text) // 2], text[len(text) // 2 :]
        yield {
            "type": "episodic",
            "memory_id": f"{number:08d}",
            "task_prompt": task,
            "outcome": outcome,
            "success": number % 3 > 0,
            "duration_seconds": 1.0,
            "tags": [f"tag{number % 50}"],
        }


@contextmanager
def _agent(bench: Bench, **more: Any) -> Iterator[MemoryArchitecture]:
    chosen = dict(bench.options(**more))
    backend = chosen.pop("backend")
    with MemoryArchitecture(backend, "bench", **chosen) as memory:  # type: ignore[arg-type] # the settings of a face
        yield memory


@contextmanager
def _loaded(bench: Bench, count: int) -> Iterator[MemoryArchitecture]:
    """An agent that has so many memories; they are loaded once for all cases of a run."""
    folder = bench.folder / f"{_KEPT}-{count}"
    fresh = not folder.exists()
    with _agent(bench, path=str(folder), namespace=f"{_KEPT}-{count}") as memory:
        if fresh:
            memory.load(_memories(count))
        memory.search_episodes("warm", limit=5)
        yield memory


# --- finding --------------------------------------------------------------------------------------


def _searched(bench: Bench, count: int, of: Callable[[list[float]], float], mode: str = "fused") -> Figure:
    """Milliseconds of a search, by `of` of each round's."""
    found = []
    with _loaded(bench, bench.amount.of(count)) as memory:
        for number in range(bench.amount.slow_rounds):
            times = []
            for text in islice(_texts(1000 + number), bench.amount.of(QUERIES)):
                query = " ".join(text.split()[:8])
                started = time.perf_counter()
                memory.search_episodes(query, limit=5, mode=mode)  # type: ignore[arg-type] # one of the modes
                times.append((time.perf_counter() - started) * 1000)
            found.append(of(times))
            bench.tick()
    return Figure(tuple(found))


def _median(times: list[float]) -> float:
    return statistics.median(times)


def _worst(times: list[float]) -> float:
    return statistics.quantiles(times, n=100, method="inclusive")[98] if len(times) > 1 else times[0]


def few(bench: Bench) -> Figure:
    """By words and meaning over 10,000."""
    return _searched(bench, FEW, _median)


def few_at_worst(bench: Bench) -> Figure:
    """What 99 of 100 stay below."""
    return _searched(bench, FEW, _worst)


def many(bench: Bench) -> Figure:
    """By words and meaning over 100,000."""
    return _searched(bench, MANY, _median)


def many_at_worst(bench: Bench) -> Figure:
    """What 99 of 100 stay below."""
    return _searched(bench, MANY, _worst)


def keyword(bench: Bench) -> Figure:
    """By words alone over 100,000."""
    return _searched(bench, MANY, _median, "keyword")


def context(bench: Bench) -> Figure:
    """Milliseconds of an enriched context over 100,000."""
    found = []
    with _loaded(bench, bench.amount.of(MANY)) as memory:
        for number in range(20):
            memory.add_step(f"act {number}", next(_texts(number)))
        for number in range(bench.amount.slow_rounds):
            times = []
            for text in islice(_texts(2000 + number), 50):
                started = time.perf_counter()
                memory.get_enriched_context(" ".join(text.split()[:8]))
                times.append((time.perf_counter() - started) * 1000)
            found.append(statistics.median(times))
            bench.tick()
    return Figure(tuple(found))


def by_id(bench: Bench) -> Figure:
    """A hundred memories by their ids, against one MGET of their keys."""
    ids = [f"{number:08d}" for number in range(100)]
    with _loaded(bench, max(len(ids), bench.amount.of(FEW))) as memory, bench.naive() as client:
        for number, each in enumerate(ids):
            client.set(f"naive:{each}", _json(number))
        if len(memory.get_many("episodic", ids)) != len(ids):
            raise Untrue("not all memories were there")

        def ours() -> float:
            return _timed(lambda: memory.get_many("episodic", ids), 20)

        def naive() -> float:
            return _timed(lambda: client.mget([f"naive:{each}" for each in ids]), 20)

        return bench.compared(ours, naive, 20)


def _json(number: int) -> bytes:
    import json

    return json.dumps(next(islice(_memories(number + 1), number, None))).encode()


def _timed(action: Callable[[], object], count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        action()
    return time.perf_counter() - started


# --- saving ---------------------------------------------------------------------------------------


def _saved(bench: Bench, **more: Any) -> Figure:
    """Milliseconds of a memory saved, indexed and acknowledged."""
    found = []
    with _agent(bench, **more) as memory:
        memory.save_episode("warm", "up", True, 1.0)
        for number in range(bench.amount.slow_rounds):
            times = []
            for text in islice(_texts(3000 + number), bench.amount.of(SAVES)):
                started = time.perf_counter()
                memory.save_episode(text[:60], text[60:], True, 1.0, tags=["bench"])
                times.append((time.perf_counter() - started) * 1000)
            found.append(statistics.median(times))
            bench.tick()
    return Figure(tuple(found))


def saved(bench: Bench) -> Figure:
    """On a server."""
    return _saved(bench)


def saved_embedded(bench: Bench) -> Figure:
    """On the embedded default."""
    return _saved(bench, backend="sqlite", url="")


def loaded(bench: Bench) -> Figure:
    """Memories a second, loaded in bulk."""
    count = bench.amount.of(MANY)
    rates = []
    for number in range(bench.amount.slow_rounds):
        with _agent(bench, namespace=f"bulk{number}") as memory:
            started = time.perf_counter()
            memory.load(_memories(count, seed=2))
            rates.append(count / (time.perf_counter() - started))
        bench.tick()
    return Figure(tuple(rates))


def on_disk(bench: Bench) -> Figure:
    """Bytes of the index for each memory, beyond its own text."""
    count = bench.amount.of(FEW)
    folder = bench.folder / f"{_KEPT}-{count}"
    with _loaded(bench, count):
        pass
    size = sum(each.stat().st_size for each in Path(folder, "search").iterdir())
    text = sum(len(each["task_prompt"]) + len(each["outcome"]) for each in _memories(count))
    found = []
    for _ in range(bench.amount.slow_rounds):  # it is the same each time
        found.append((size - text) / count / 1000)
        bench.tick()
    return Figure(tuple(found))


AGENTS: Final = (
    Case("search", "a search by words and meaning over 10,000 memories, median", 3.0, "ms", few, slow=True),
    Case("search-99", "the same, what 99 of 100 stay below", 10.0, "ms", few_at_worst, slow=True),
    Case("search-many", "a search over 100,000 memories, median", 12.0, "ms", many, slow=True),
    Case("search-many-99", "the same, what 99 of 100 stay below", 40.0, "ms", many_at_worst, slow=True),
    Case("keyword", "a search by words alone over 100,000, median", 3.0, "ms", keyword, slow=True),
    Case("saved", "a memory saved, indexed and acknowledged, on a server", 1.5, "ms", saved, slow=True),
    Case("saved-embedded", "the same in one file without a server", 1.0, "ms", saved_embedded, slow=True),
    Case("loaded", "memories loaded in bulk, embedded and indexed", 1500, "/s", loaded, at_least=True, slow=True),
    Case("context", "an enriched context over 100,000 memories", 40.0, "ms", context, slow=True),
    Case("by-id", "100 memories by their ids, against one MGET", 1.5, "x", by_id),
    Case("on-disk", "the index of a memory beyond its text", 1.0, "kB", on_disk, slow=True),
)
