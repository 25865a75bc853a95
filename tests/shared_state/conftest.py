"""What tests of shared state have at hand: each backend in turn, a memory there, and another process's."""

from collections.abc import Iterator
from typing import Any

import pytest

from remanence import Memory
from remanence.testing.oracle import QUICK
from remanence.testing.places import Place
from remanence.testing.servers import Server, available_servers


@pytest.fixture(params=["memory", "sqlite", *available_servers()])
def place(request: pytest.FixtureRequest, _shared_servers: dict[str, Server], namespace: str) -> Place:
    """Each backend in turn, empty."""
    kind = str(request.param)
    options: dict[str, Any] = {"backend": kind, "namespace": namespace}
    if kind not in ("memory", "sqlite"):
        if kind not in _shared_servers:
            _shared_servers[kind] = Server(kind, unix_socket=True).start()
        options = {"url": _shared_servers[kind].url, "namespace": namespace, **QUICK, "deadline": 5.0}
    # one more setting makes another engine; what is in the process has but one
    return Place(kind, options, options if kind == "memory" else {**options, "pool": 5})


@pytest.fixture
def memory(place: Place) -> Iterator[Any]:
    with Memory(**place.options) as made:
        yield made


@pytest.fixture
def other(place: Place, memory: Any) -> Iterator[Any]:
    """What another process sees, for it shares nothing with `memory` but the store."""
    with Memory(**place.elsewhere) as made:
        assert (made.engine is memory.engine) == (place.kind == "memory")
        yield made
