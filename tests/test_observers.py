"""Who hears what happens: the events themselves, logging, Prometheus, and the status read from code."""

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from remanence import events
from remanence.engine import AsyncEngine, BlockingEngine
from remanence.errors import Conflict, Rejected, WrongKind
from remanence.faces.state import MISSING
from remanence.observers import logging as logging_observer
from remanence.observers.logging import attach
from remanence.observers.prometheus import PrometheusObserver, instrument
from remanence.settings import Settings
from remanence.sync.state import Memory
from remanence.testing.servers import Server


@pytest.fixture
def engine() -> Iterator[BlockingEngine]:
    engine = BlockingEngine(Settings.build(backend="memory"))
    yield engine
    engine.close()


def wait_until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)


# --- events ---------------------------------------------------------------------------------------


def test_every_event_reaches_an_observer_and_is_counted() -> None:
    told = events.Events()
    heard: list[events.Event] = []
    remove = told.observe(heard.append)
    told.tell(events.Applied(3, 0.1, 0), 3)
    remove()
    told.tell(events.Applied(2, 0.1, 0), 2)
    assert heard == [events.Applied(3, 0.1, 0)]
    assert told.counters == {"Applied": 5}


def test_an_event_that_nobody_wants_need_not_be_built() -> None:
    told = events.Events()
    assert not told.counted(events.Journalled, 4)
    heard: list[events.Event] = []
    told.observe(heard.append, lambda kind: kind.level != "DEBUG")
    assert not told.counted(events.Journalled, 4)
    assert told.counted(events.Replayed)
    told.observe(lambda event: None)
    told.tell(events.Journalled(1, 1))
    told.tell(events.Replayed(1, 0.1))
    assert heard == [events.Replayed(1, 0.1)]
    assert told.counters == {"Journalled": 9, "Replayed": 2}


def test_an_observer_that_fails_is_told_no_more_and_disturbs_nobody() -> None:
    told = events.Events()
    heard: list[events.Event] = []
    calls: list[events.Event] = []

    def failing(event: events.Event) -> None:
        calls.append(event)
        raise RuntimeError("an observer's own fault")

    told.observe(failing)
    told.observe(heard.append)
    for _ in range(2):
        told.tell(events.BecameUnavailable("gone"))
    assert len(calls) == 1
    assert len(heard) == 2


@pytest.mark.parametrize("kind", events.Event.__subclasses__(), ids=lambda kind: kind.__name__)
def test_every_event_says_itself_in_a_line(kind: type[events.Event]):
    values = {"int": 7, "float": 1.5, "str": "word"}
    text = str(kind(*(values[annotation.__name__] for annotation in kind.__annotations__.values())))
    assert text
    assert "{" not in text
    assert "\n" not in text
    assert kind.level in ("DEBUG", "INFO", "WARNING", "ERROR")


# --- logging --------------------------------------------------------------------------------------


def test_the_log_has_each_event_at_its_level_and_makes_its_text_late(
    caplog: pytest.LogCaptureFixture,
):
    engine = SimpleNamespace(events=events.Events())
    end = attach(engine)
    event = events.BecameUnavailable("gone fishing")
    with caplog.at_level("INFO", "remanence"):
        engine.events.tell(event)
        engine.events.tell(events.Journalled(1, 1))
        end()
        engine.events.tell(event)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("remanence", logging.WARNING)
    assert record.msg == "%s"
    assert record.args == (event,)
    assert record.getMessage() == "server unavailable (gone fishing): writes wait in the journal"


def test_debug_events_are_built_only_while_the_logger_takes_them(
    engine: BlockingEngine, caplog: pytest.LogCaptureFixture
):
    attach(engine)
    with caplog.at_level("INFO", "remanence"):
        assert not engine.events.counted(events.Journalled)
    with caplog.at_level("DEBUG", "remanence"):
        assert engine.events.counted(events.Journalled)


def test_the_log_is_silent_until_somebody_asks() -> None:
    program = (
        "from remanence.engine import BlockingEngine\n"
        "from remanence.observers.logging import attach\n"
        "from remanence.settings import Settings\n"
        "from remanence import events\n"
        "engine = BlockingEngine(Settings.build(backend='memory'))\n"
        "attach(engine)\n"
        "engine.events.tell(events.DataLost('x', 1, 2))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_loguru_hears_it_by_the_documented_line():
    engine = events.Events()  # no more than that: other tests may have led the standard logger to loguru
    loguru = pytest.importorskip("loguru")
    document = logging_observer.__doc__ or ""
    (line,) = (line.strip() for line in document.splitlines() if "loguru.logger" in line)
    heard: list[str] = []
    sink = loguru.logger.add(heard.append, format="{level} {message}", level="INFO")
    try:
        exec(line, {"loguru": loguru, "memory": SimpleNamespace(engine=engine)})  # the documented line itself
        engine.tell(events.BecameUnavailable("gone {fishing}"))
        engine.tell(events.Journalled(1, 1))
    finally:
        loguru.logger.remove(sink)
    assert [str(each) for each in heard] == [
        "WARNING server unavailable (gone {fishing}): writes wait in the journal\n"
    ]


def test_an_outage_is_logged_without_a_secret_or_a_value(
    fresh_server: Callable[..., Server], caplog: pytest.LogCaptureFixture
):
    server = fresh_server(password="open sesame", persistence="aof")
    url = server.url.replace("open sesame", "open%20sesame")
    with Memory(url=url, backoff_most=0.1) as memory, caplog.at_level("DEBUG", "remanence"):
        attach(memory.engine)
        memory.diary = "dear diary"
        server.kill()
        memory.diary = "dear diary"
        server.start()
        assert memory.engine.flush(10)
        wait_until(lambda: "Replayed" in memory.engine.status().counters)
    kinds = {type(record.args[0]).__name__ for record in caplog.records if record.name == "remanence"}
    assert {"Journalled", "Applied", "BecameUnavailable", "BecameAvailable", "Replayed"} <= kinds
    assert "sesame" not in caplog.text
    assert "dear" not in caplog.text


# --- status ---------------------------------------------------------------------------------------


def test_the_status_tells_depth_lag_contact_and_availability(fresh_server: Callable[..., Server]):
    server = fresh_server(persistence="aof", fsync="always")  # else a busy disk may cost it a write, sent again
    with Memory(url=server.url, backoff_most=0.1) as memory:
        status = memory.engine.status()
        assert (status.pending, status.last_contact, status.ready) == (0, None, False)
        memory.a = 1
        status = memory.engine.status()
        assert (status.available, status.ready, status.pending, status.lag) == (True, True, 0, 0.0)
        assert status.last_contact is not None
        assert abs(status.last_contact - time.time()) < 5
        server.kill()
        for number in range(3):
            memory.a = number
        time.sleep(0.05)
        status = memory.engine.status()
        assert (status.available, status.pending) == (False, 3)
        assert status.pending_bytes > 0
        assert 0.05 <= status.lag < 5
        assert "cannot be reached" in status.reason
        server.start()
        assert memory.engine.flush(10)
        status = memory.engine.status()
        assert (status.available, status.pending, status.lag, status.reason) == (True, 0, 0.0, "")
        assert status.counters["Journalled"] == status.counters["Applied"] == 4


def test_the_status_tells_conflicts_and_dead_letters(server: Server, namespace: str):
    with Memory(url=server.url, redis_prefix=f"{namespace}:") as memory, server.client() as client:
        memory.a = 1
        with pytest.raises((Conflict, Rejected)):
            memory.edit("a").append(2)
        client.rpush(f"{namespace}:b", "not a document")
        with pytest.raises(WrongKind):
            memory.b = 1
        status = memory.engine.status()
        assert (status.conflicts, status.dead_letters) == (1, 1)
        assert memory.compare_and_set("c", MISSING, 1)


# --- Prometheus -----------------------------------------------------------------------------------


def scraped(registry: CollectorRegistry) -> str:
    return generate_latest(registry).decode()


def test_metrics_are_the_status_at_the_moment_of_the_scrape(fresh_server: Callable[..., Server]):
    server, registry = fresh_server(persistence="aof"), CollectorRegistry()
    with Memory(url=server.url, backoff_most=0.1) as memory:
        end = instrument(memory.engine, registry)
        memory.a_name = "a value"
        place = f'place="127.0.0.1:{server.port}/0"'
        assert f"remanence_available{{{place}}} 1.0" in scraped(registry)
        assert f'remanence_events_total{{event="Applied",{place}}} 1.0' in scraped(registry)
        server.kill()
        memory.a_name = "another value"
        told = scraped(registry)
        assert f"remanence_available{{{place}}} 0.0" in told
        assert f"remanence_pending{{{place}}} 1.0" in told
        for name in ("pending_bytes", "lag_seconds", "last_contact_timestamp_seconds", "retained"):
            value = next(line for line in told.splitlines() if line.startswith(f"remanence_{name}{{"))
            assert float(value.split()[-1]) > 0
        assert f"remanence_dead_letters{{{place}}} 0.0" in told
        assert f"remanence_conflicts{{{place}}} 0.0" in told
        assert "a_name" not in told
        assert "value" not in told
        end()
        assert place not in scraped(registry)


def test_an_engine_without_contact_shows_none(engine: BlockingEngine):
    registry = CollectorRegistry()
    instrument(engine, registry)
    assert "remanence_last_contact_timestamp_seconds{" not in scraped(registry)
    assert 'remanence_available{place="memory"} 1.0' in scraped(registry)


def test_several_engines_share_a_registry_and_never_a_label(engine: BlockingEngine):
    registry = CollectorRegistry()
    other, named = (BlockingEngine(Settings.build(backend="memory")) for _ in range(2))
    for each in (engine, engine, other):
        instrument(each, registry)
    instrument(named, registry, name="mine")
    lines = [line for line in scraped(registry).splitlines() if line.startswith("remanence_available{")]
    assert lines == [f'remanence_available{{place="{name}"}} 1.0' for name in ("memory", "memory #2", "mine")]
    del other, named, each
    told = scraped(registry)
    assert "#2" not in told
    assert "mine" not in told


def test_an_engine_whose_status_cannot_be_read_is_not_available(engine: BlockingEngine):
    class Broken:
        place = "broken"

        def status(self) -> None:
            raise RuntimeError("out of order")

    registry, broken = CollectorRegistry(), Broken()
    observer = PrometheusObserver(registry)
    observer.watch(broken)
    observer.watch(engine)
    told = scraped(registry)
    assert 'remanence_available{place="broken"} 0.0' in told
    assert 'remanence_pending{place="broken"}' not in told
    assert 'remanence_pending{place="memory"} 0.0' in told


def test_an_asyncio_engine_is_scraped_from_its_loop_and_from_other_threads() -> None:
    async def main() -> tuple[str, str, str]:
        registry, engine = CollectorRegistry(), AsyncEngine(Settings.build(backend="memory"))
        instrument(engine, registry)
        here = scraped(registry)
        there = await asyncio.to_thread(scraped, registry)
        kept.append((registry, engine))
        await engine.close()
        return here, there, engine.place

    kept: list[tuple[CollectorRegistry, AsyncEngine]] = []
    here, there, place = asyncio.run(main())
    assert f'remanence_pending{{place="{place}"}} 0.0' in here
    assert f'remanence_pending{{place="{place}"}} 0.0' in there
    assert f'remanence_available{{place="{place}"}} 0.0' in scraped(kept[0][0])  # its loop has ended
