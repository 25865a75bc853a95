"""Hosts whose name cannot be resolved, or leads elsewhere now: one deadline, and the last good address serves."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from remanence import AsyncMemory, Memory
from remanence.errors import Unavailable
from remanence.testing.oracle import QUICK, eventually
from remanence.testing.servers import HOST, Certificates, Server, supports_tls


class Resolver:
    """Answers for `memories.test` as it is told to, after stalling as long as it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host = HOST
        self.asked = 0
        self._real = socket.getaddrinfo
        self._flowing = threading.Event()
        self._flowing.set()
        monkeypatch.setattr(socket, "getaddrinfo", self._answer)

    def _answer(self, host: Any, *rest: Any, **options: Any) -> Any:
        if host != "memories.test":
            return self._real(host, *rest, **options)
        self.asked += 1
        self._flowing.wait(30)
        return self._real(self.host, *rest, **options)

    def stall(self) -> None:
        self._flowing.clear()

    def flow(self) -> None:
        self._flowing.set()


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    made = Resolver(monkeypatch)
    yield made
    made.flow()


def named(server: Server, namespace: str) -> dict[str, Any]:
    return {**QUICK, "url": server.url.replace(HOST, "memories.test"), "namespace": namespace}


def test_t13_a_stalled_name_costs_one_deadline(server: Server, namespace: str, resolver: Resolver):
    resolver.stall()
    with Memory(**named(server, namespace)) as memory:
        started = time.monotonic()
        memory.set("x", 1)
        assert time.monotonic() - started < 0.7
        started = time.monotonic()
        memory.set("x", 2)
        assert time.monotonic() - started < 0.1
        assert memory.engine.status().pending == 2
        time.sleep(1.2)  # in which the keeper tries again and again
        assert resolver.asked == 1, "one question under way serves all"
        resolver.flow()
        assert eventually(lambda: memory.engine.status().available and not memory.engine.status().pending)


def test_t13_a_stalled_name_costs_one_deadline_with_tls_too(namespace: str, resolver: Resolver):
    resolver.stall()
    with Memory(url="rediss://memories.test:1/0", namespace=namespace, **QUICK) as memory:
        started = time.monotonic()
        memory.set("x", 1)
        assert time.monotonic() - started < 0.7


def test_t13_a_stalled_name_costs_a_loop_one_deadline_and_does_not_keep_it(
    server: Server, namespace: str, resolver: Resolver
):
    async def write() -> float:
        async with AsyncMemory(**named(server, namespace)) as memory:
            started = time.monotonic()
            await memory.set("x", 1)
            return time.monotonic() - started

    resolver.stall()
    started = time.monotonic()
    assert asyncio.run(write()) < 0.7
    assert time.monotonic() - started < 4.0, "the loop's end waited for the resolver"


def test_t13_the_last_good_address_serves_meanwhile(
    fresh_server: Callable[..., Server], namespace: str, resolver: Resolver
):
    server = fresh_server(persistence="aof")
    resolver.host = "127.0.0.9"  # where nothing listens
    with Memory(**named(server, namespace)) as memory:
        memory.set("x", 0)
        resolver.host = HOST
        assert eventually(lambda: not memory.engine.status().pending)
        memory.set("x", 1)
        resolver.stall()
        server.restart()
        started = time.monotonic()
        memory.set("x", 2)
        assert time.monotonic() - started < 0.7
        assert eventually(lambda: memory.engine.status().available and not memory.engine.status().pending, 3)
        assert memory.get("x") == 2


def test_t13_the_last_good_address_serves_a_loop_within_its_deadline(
    fresh_server: Any, namespace: str, resolver: Resolver
):
    server = fresh_server(persistence="aof")

    async def write() -> bool:
        options = {**named(server, namespace), "deadline": 0.2, "connect_timeout": 5.0}
        async with AsyncMemory(**options) as memory:
            await memory.set("x", 1)
            resolver.stall()
            server.restart()
            await memory.set("x", 2)
            for _ in range(100):
                await asyncio.sleep(0.03)
                if not (await memory.engine.status()).pending:
                    return True
            return False

    assert asyncio.run(write())


def test_t13_a_new_address_is_used(server: Server, namespace: str, resolver: Resolver):
    resolver.host = "127.0.0.9"  # where nothing listens
    with Memory(**named(server, namespace)) as memory:
        memory.set("x", 1)
        assert memory.engine.status().pending == 1
        resolver.host = HOST
        assert eventually(lambda: not memory.engine.status().pending)


def test_the_name_is_what_a_certificate_is_for_not_its_address(
    certificates: Certificates, namespace: str, resolver: Resolver
):
    if not supports_tls("redis"):
        pytest.skip("no server with TLS here")
    with Server("redis", tls=certificates) as server:
        options: Any = {**QUICK, "deadline": 2.0, "namespace": namespace, "tls_ca": str(certificates.ca)}

        async def awaited(url: str) -> str:
            async with AsyncMemory(url=url, **options) as memory:
                await memory.set("x", 1)
                return (await memory.engine.status()).reason

        def blocked(url: str) -> str:
            with Memory(url=url, **options) as memory:
                memory.set("x", 1)
                return memory.engine.status().reason

        for place in (server.url, server.url.replace(HOST, "localhost")):
            assert blocked(place) == asyncio.run(awaited(place)) == ""
        wrong = server.url.replace(HOST, "memories.test")
        for reason in (blocked(wrong), asyncio.run(awaited(wrong))):
            assert "certificate" in reason and "memories.test" in reason


def test_t13_a_name_that_nobody_has_is_said_to_be_so(namespace: str):
    with (
        Memory(url="redis://no-such-host.invalid:1/0", namespace=namespace, **QUICK) as memory,
        pytest.raises(Unavailable, match="cannot be reached"),
    ):
        memory.get("x")
