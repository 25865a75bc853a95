"""What every test has at hand: servers, a namespace of its own, and an environment with no settings."""

import json
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

pytest.register_assert_rewrite("remanence.testing")  # the contract's failures show their values

from remanence import MemoryArchitecture  # noqa: E402 - after the rewriting it must obey
from remanence.engine import BlockingEngine  # noqa: E402 - as above
from remanence.settings import Settings  # noqa: E402 - as above
from remanence.testing.clusters import Cluster  # noqa: E402 - as above
from remanence.testing.servers import (  # noqa: E402 - as above
    Certificates,
    Server,
    available_servers,
    make_certificates,
)
from remanence.testing.tending import GatewayHands, opened  # noqa: E402 - as above

hypothesis.settings.register_profile("project", deadline=None, print_blob=True)  # machines differ in speed
hypothesis.settings.load_profile("project")

CAMPAIGN = "campaign"
"""Under this name a test's report has its row of the table."""
SETTINGS = ("REDIS_", "REMANENCE_", "MEMORY_BACKEND", "KEY_PREFIX", "SESSION_TTL")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting comes from the developer's own environment, and local files go to the test's folder."""
    for name in list(os.environ):
        if name.startswith(SETTINGS) and name != "REMANENCE_TEST_REDIS8":  # which says where a server is
            monkeypatch.delenv(name)
    monkeypatch.setenv("REMANENCE_PATH", str(tmp_path / "remanence"))


@pytest.fixture
def namespace() -> str:
    """A prefix that no other test uses, so that all can share a server."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session", params=list(available_servers()))
def server_kind(request: pytest.FixtureRequest) -> str:
    """Each kind of server found here, in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def _shared_servers() -> Iterator[dict[str, Server]]:
    """The servers started so far, kept to the end: pytest may change between kinds many times."""
    started: dict[str, Server] = {}
    yield started
    for server in started.values():
        server.close()


@pytest.fixture(scope="session")
def server(server_kind: str, _shared_servers: dict[str, Server]) -> Server:
    """A running server for all tests of this worker: write under `namespace`, never stop or empty it."""
    if server_kind not in _shared_servers:
        _shared_servers[server_kind] = Server(server_kind, unix_socket=True).start()
    return _shared_servers[server_kind]


@pytest.fixture
def fresh_server(server_kind: str) -> Iterator[Callable[..., Server]]:
    """Start a server with the options of `Server`, to be killed, frozen or emptied; ended after the test."""
    started: list[Server] = []

    def start(**options: Any) -> Server:
        started.append(Server(**{"kind": server_kind, **options}))
        return started[-1].start()

    yield start
    for server in started:
        server.close()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority, a server's certificate and a client's."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def any_server() -> Iterator[Server]:
    """A server of some kind, for what takes long and depends little on which."""
    with Server() as server:
        yield server


@pytest.fixture(params=["memory", "sqlite"])
def hands(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[GatewayHands]:
    """What tends memories, on an empty store: in memory, whose clock stands still, and in a file."""
    if request.param == "memory":
        yield opened()
        return
    engine = BlockingEngine(Settings(backend="sqlite", path=str(tmp_path)))
    yield GatewayHands(engine.gateway)
    engine.close()


@pytest.fixture(scope="module")
def cluster(server_kind: str) -> Iterator[Cluster]:
    """Three primaries with a replica each, for all tests of a file: write under `namespace`, leave it whole."""
    with Cluster(server_kind) as made:
        yield made


@pytest.fixture
def campaign(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Note a long test's result for the table at the end: what was injected, and counts, of which the last three
    should be 0.
    """

    def note(injected: str, writes: int, lost: int = 0, doubled: int = 0, disordered: int = 0) -> None:
        record_property(CAMPAIGN, [request.node.name, injected, writes, lost, doubled, disordered])

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of the long tests, as it stands in docs/topologies.md."""
    reports = [each for kind in ("passed", "failed") for each in terminalreporter.getreports(kind)]
    rows = [value for each in reports for name, value in each.user_properties if name == CAMPAIGN]
    if not rows:
        return
    terminalreporter.section("campaigns")
    for row in (["what", "faults injected", "writes", "lost", "duplicated", "out of order"], ["---"] * 6, *rows):
        terminalreporter.write_line(f"| {' | '.join(map(str, row))} |")


@pytest.fixture
def spoken(capsysbinary: pytest.CaptureFixture[bytes]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process: (exit code, stdout, stderr)."""
    from remanence.cli import main

    def call(*words: str) -> tuple[int, str, str]:
        try:
            code = main(words)
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsysbinary.readouterr()
        return code, out.decode(), err.decode()

    return call


@pytest.fixture
def answered(spoken: Callable[..., tuple[int, str, str]]) -> Callable[..., tuple[int, Any, str]]:
    """As `spoken`, of --json what it says."""

    def call(*words: str) -> tuple[int, Any, str]:
        code, out, err = spoken(*words)
        return code, json.loads(out) if "--json" in words and out else out, err

    return call


@pytest.fixture
def deployment(server: Server, namespace: str) -> Iterator[Any]:
    """A `Deployment` on the shared server: its engine, and how the command line names it."""
    from remanence.testing.deployment import Deployment

    found = Deployment(server.url, namespace, server)
    yield found
    found.engine.close(0)


@pytest.fixture
def make(any_server: Server, namespace: str) -> Iterator[Callable[..., MemoryArchitecture]]:
    """Opens agents' memories on a server, in a namespace of the test, and closes them behind it."""
    made: list[MemoryArchitecture] = []

    def build(agent_id: str = "a", **options: Any) -> MemoryArchitecture:
        given: dict[str, Any] = {"url": any_server.url, "namespace": namespace, **options}
        made.append(MemoryArchitecture(agent_id=agent_id, **given))
        return made[-1]

    yield build
    for each in made:
        each.close()
