"""A cable that can be pulled: a server in a network of its own, reached over a pair of virtual interfaces.

The traffic stays on this machine. It takes root and Linux: `why_no_cables` says what is missing. A pulled
cable is what no proxy can play: nothing is refused, reset or acknowledged, and the kernel retries by itself.
"""

import fcntl
import functools
import os
import shutil
import subprocess
import tempfile
import weakref
from pathlib import Path
from typing import IO, Any, Self

from remanence.testing.servers import Server

MOST = 250
"""Cables at a time on one machine: each has a third number of its own in the addresses 10.213.x.1 and 10.213.x.2."""
PLACES = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
"""Where `ip` may be: users who are not root often do not have it on their PATH."""


class NoCable(RuntimeError):
    """A cable cannot be laid here. The message says why."""


@functools.cache
def why_no_cables() -> str:
    """Why cables cannot be laid on this machine, "" where they can."""
    missing = [name for name in ("ip", "nsenter") if not shutil.which(name, path=PLACES)]
    if missing:
        return f"{' and '.join(missing)} not found: install iproute2 and util-linux"
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    try:
        Cable().close()
    except NoCable as error:
        return str(error)
    return ""


def _run(*words: str) -> None:
    """Run one of the two programs. Raises `NoCable` with what it complained of."""
    program = shutil.which(words[0], path=PLACES) or words[0]
    try:
        done = subprocess.run([program, *words[1:]], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError) as error:
        raise NoCable(f"{words[0]}: {error}") from error
    if done.returncode:
        raise NoCable(f"{' '.join(words)}: {done.stderr.strip()}")


class _Laid:
    """What a cable is made of, apart from it so that it can be let go after it."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.number, self._lock = _claim()
        self.near, self.far = f"rem{self.number}near", f"rem{self.number}far"
        self.namespace = f"remanence{self.number}"
        self.inside = (shutil.which("nsenter", path=PLACES) or "nsenter", f"--net=/run/netns/{self.namespace}")
        self._sweep()  # a process that was killed may have left one of this number

    def lay(self) -> None:
        """Make both ends. Raises `NoCable`."""
        _run("ip", "netns", "add", self.namespace)
        _run("ip", "link", "add", self.near, "type", "veth", "peer", "name", self.far, "netns", self.namespace)
        _run("ip", "address", "add", f"{self.address(1)}/30", "dev", self.near)
        _run("ip", "link", "set", self.near, "up")
        _run(*self.inside, "ip", "address", "add", f"{self.address(2)}/30", "dev", self.far)
        for name in ("lo", self.far):
            self.switch(name, on=True)

    def address(self, end: int) -> str:
        """The address of the near end, 1, or the far one, 2."""
        return f"10.213.{self.number}.{end}"

    def switch(self, name: str, *, on: bool) -> None:
        """Put one of the far interfaces up or down."""
        _run(*self.inside, "ip", "link", "set", name, "up" if on else "down")

    def release(self) -> None:
        """Take all of it away; in a forked child, leave it to the parent."""
        if os.getpid() == self.owner:
            self._sweep()
            self._lock.close()

    def _sweep(self) -> None:
        if Path(f"/sys/class/net/{self.near}").exists():
            _run("ip", "link", "del", self.near)
        if Path(f"/run/netns/{self.namespace}").exists():
            _run("ip", "netns", "del", self.namespace)


def _claim() -> tuple[int, IO[bytes]]:
    """The first number that no other process holds, and what holds it."""
    folder = Path(tempfile.gettempdir()) / f"remanence-cables-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for number in range(1, MOST + 1):
        lock = (folder / str(number)).open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
        else:
            return number, lock
    raise NoCable(f"{MOST} cables are laid already")


class Cable:
    """Leads to a network where nothing else is. It ends with its `with`, with the object, or with the interpreter."""

    def __init__(self) -> None:
        """Lay it. Raises `NoCable`."""
        self._laid = _Laid()
        self._finalizer = weakref.finalize(self, self._laid.release)
        try:
            self._laid.lay()
        except NoCable:
            self.close()
            raise

    @property
    def address(self) -> str:
        """The address at its far end."""
        return self._laid.address(2)

    @property
    def launcher(self) -> tuple[str, ...]:
        """What a command is given to, to run at its far end."""
        return self._laid.inside

    def pull(self) -> None:
        """Pull it, at the far end: what is sent from now on is lost, and nobody is told."""
        self._laid.switch(self._laid.far, on=False)

    def plug(self) -> None:
        """Put it back."""
        self._laid.switch(self._laid.far, on=True)

    def close(self) -> None:
        """Take it away, with the network at its far end."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FarServer(Server):
    """A server at the far end of a cable. Close it before the cable."""

    def __init__(self, cable: Cable, kind: str | None = None, **options: Any) -> None:
        """`options`: those of `Server`."""
        self.host = cable.address
        self.launcher = cable.launcher
        extra = ["--protected-mode", "no", *options.pop("extra_args", ())]  # nobody else is there
        super().__init__(kind, extra_args=extra, **options)
