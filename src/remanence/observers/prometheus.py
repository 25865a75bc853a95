"""Metrics of engines for Prometheus, read at the moment of the scrape: between scrapes they cost nothing.

    from remanence.observers.prometheus import instrument

    instrument(memory.engine)

Labels hold the deployment's place and the kind of an event, never a key, a value or a secret. Needs the
extra `remanence[prometheus]`.
"""

import asyncio
import inspect
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Protocol

from prometheus_client.core import REGISTRY, CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

SCRAPE_SECONDS: Final = 2.0
"""Longest a scrape waits for an asyncio engine whose loop is busy."""
GAUGES: Final = {
    "available": "1 when the server takes writes, 0 when they wait in the journal",
    "pending": "Writes in the journal that the server does not have yet",
    "pending_bytes": "Bytes of those writes",
    "lag": "Age of the oldest pending write",
    "last_contact": "Unix time of the server's last answer",
    "retained": "Applied writes kept against a server that forgets",
    "dead_letters": "Writes set aside because they can never be applied",
    "conflicts": "Writes that were refused: conflicting, stale or no longer fitting",
}
_NAMES: Final = {"lag": "lag_seconds", "last_contact": "last_contact_timestamp_seconds"}


class Told(Protocol):
    """The status that a gauge is read from."""

    @property
    def available(self) -> bool:
        """Whether the server takes writes."""

    @property
    def counters(self) -> Mapping[str, int]:
        """How often each kind of event happened."""


class Measured(Protocol):
    """An engine."""

    @property
    def place(self) -> str:
        """Where its memories live."""

    def status(self) -> Any:
        """Its status, or what gives it when awaited."""


class PrometheusObserver(Collector):
    """The metrics of every engine given to `watch`, in one registry."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        """Registers itself, with the default registry when None."""
        self._watched: dict[str, _Watched] = {}
        (registry or REGISTRY).register(self)

    def watch(self, engine: Measured, *, name: str | None = None) -> Callable[[], None]:
        """Measure `engine` under the label `place`, which is `name` or where its memories live.

        Returns what ends it: call that before the engine is closed, for a scrape would open it anew. An
        engine that is collected as garbage ends by itself. An asyncio engine is watched from its loop.
        """
        label = self._free_label(engine, engine.place if name is None else name)
        watched = self._watched[label] = _Watched(engine)

        def end() -> None:
            if self._watched.get(label) is watched:
                del self._watched[label]

        return end

    def _free_label(self, engine: Measured, wanted: str) -> str:
        """`wanted`, numbered where another engine has it: a blocking and an asyncio one may share a place."""
        label, number = wanted, 1
        while label in self._watched and self._watched[label].engine() not in (None, engine):
            number += 1
            label = f"{wanted} #{number}"
        return label

    def describe(self) -> list[Metric]:
        """Nothing is read while registering."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now. Of an engine that cannot tell its status: that it is not available."""
        for label in [label for label, each in self._watched.items() if each.engine() is None]:
            self._watched.pop(label, None)
        told = {label: _told(each) for label, each in list(self._watched.items())}
        yield _gauge("available", {label: bool(each and each.available) for label, each in told.items()})
        known = {label: each for label, each in told.items() if each is not None}
        for field in [each for each in GAUGES if each != "available"]:
            yield _gauge(field, {label: getattr(each, field) for label, each in known.items()})
        counter = CounterMetricFamily("remanence_events", "What happened, by kind", labels=["place", "event"])
        for label, each in known.items():
            for kind, count in sorted(each.counters.items()):
                counter.add_metric([label, kind], count)
        yield counter


_observers: "weakref.WeakKeyDictionary[CollectorRegistry, PrometheusObserver]" = weakref.WeakKeyDictionary()


def instrument(
    engine: Measured, registry: CollectorRegistry | None = None, *, name: str | None = None
) -> Callable[[], None]:
    """Measure `engine` in `registry` (the default one when None), beside those already there; see `watch`."""
    found = registry or REGISTRY
    observer = _observers.get(found)
    if observer is None:
        observer = _observers[found] = PrometheusObserver(found)
    return observer.watch(engine, name=name)


class _Watched:
    """How to ask an engine for its status from the thread of a scrape, without keeping it alive."""

    def __init__(self, engine: Measured) -> None:
        self.engine = weakref.ref(engine)
        self._loop = _running()

    def status(self) -> Told | None:
        engine = self.engine()
        answer: Any = engine.status() if engine is not None else None
        told: Told | None = _awaited(answer, self._loop) if inspect.iscoroutine(answer) else answer
        return told


def _told(watched: _Watched) -> Told | None:
    try:
        return watched.status()
    except Exception:  # one engine's trouble must not hide the metrics of all others
        return None


def _gauge(field: str, values: Mapping[str, float | None]) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(f"remanence_{_NAMES.get(field, field)}", GAUGES[field], labels=["place"])
    for label, value in values.items():
        if value is not None:  # such as the time of a contact that never was
            gauge.add_metric([label], float(value))
    return gauge


def _awaited(answer: Any, loop: asyncio.AbstractEventLoop | None) -> Any:
    """The status of an asyncio engine: directly in its own loop's thread, else by way of the loop."""
    if loop is None or loop.is_closed():
        answer.close()
        return None
    if _running() is not loop:
        return asyncio.run_coroutine_threadsafe(answer, loop).result(SCRAPE_SECONDS)
    try:
        answer.send(None)  # a status never waits
    except StopIteration as end:
        return end.value
    answer.close()
    return None


def _running() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


__all__ = ["PrometheusObserver", "instrument"]
