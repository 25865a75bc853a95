"""Commands in processes of their own, and memories for them to find: for tests of the command line."""

import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from remanence.engine import BlockingEngine
from remanence.model import Write
from remanence.runtime.blocking import run
from remanence.settings import Settings
from remanence.sync.conversations import RedisWorkingMemoryManager
from remanence.sync.messages import MemoryClient
from remanence.sync.state import Memory

Command = Callable[..., tuple[int, Any, str]]
"""What the fixtures `spoken` and `answered` give: a command run in this process."""


def hear_ctrl_c() -> None:
    """What a terminal's shell does; tests that run in the background ignore SIGINT, and hand that on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def started(*words: str, **options: Any) -> "subprocess.Popen[bytes]":
    """The command in a process of its own, which hears Ctrl-C as under a terminal's shell."""
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([sys.executable, "-m", "remanence", *words], preexec_fn=hear_ctrl_c, **pipes)


def fill(url: str) -> None:
    """Have something of each face at a server."""
    with Memory(url=url) as memory, MemoryClient(url=url) as client:
        memory.a, memory.b = 1, {"x": [1]}
        memory.set("brief", "x", ttl=500)
        client.add("s", "user", "hi")
        client.add("s", "assistant", "hällo\n")
    with RedisWorkingMemoryManager(url) as manager:
        manager.store({"conversation_id": "c", "working_memory": "Likes tea"})


def load(settings: Settings, writes: list[Write]) -> None:
    """Write all of it, and wait until the store has it."""
    engine = BlockingEngine(settings)
    for at in range(0, len(writes), 500):
        receipts = run(engine.gateway.write(writes[at : at + 500], ack="store", deadline=30))
        assert {receipt.state for receipt in receipts} == {"applied"}
    engine.close()
