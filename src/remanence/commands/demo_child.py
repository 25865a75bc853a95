"""The other processes of the demo: they remember, recall what was remembered, or write until stopped.

All end when their standard input does, so that none is left behind whatever happens to the demo.
"""

import json
import os
import select
import sys
import time
from typing import Any, Final

from remanence.events import Rewound
from remanence.sync.conversations import RedisWorkingMemoryManager
from remanence.sync.messages import MemoryClient
from remanence.sync.state import Memory

SESSION: Final = "demo"
REPORT_SECONDS: Final = 0.1
FLUSH_SECONDS: Final = 10.0


def remember() -> None:
    """Remember three kinds of things. The demo shows the lines of this body; this is what runs."""
    memory = Memory()
    memory.preferences = {"theme": "dark", "languages": ["en"]}
    memory.preferences["languages"].append("fr")

    session = MemoryClient()
    session.add("user-42", "user", "What is RAG?")
    session.add("user-42", "assistant", "Retrieval-augmented generation.")

    agent = RedisWorkingMemoryManager(backend="sqlite")
    agent.store({"conversation_id": "conv-7", "working_memory": "Likes tea"})


def recall() -> None:
    """Print, as JSON, what another process remembered."""
    messages = MemoryClient().get("user-42")
    notes = RedisWorkingMemoryManager(backend="sqlite").retrieve({"conversation_id": "conv-7"})
    _tell(
        {
            "preferences": Memory().get("preferences"),
            "messages": [{"role": each["role"], "content": each["content"]} for each in messages],
            "working_memory": [note.working_memory for note in notes],
        }
    )


def learn() -> None:
    """Live through something and learn from it. The demo shows the lines of this body; this is what runs."""
    from remanence.sync.agents import MemoryArchitecture

    agent = MemoryArchitecture(agent_id="agent_001")
    agent.add_step("deploy", "Pods restart", success=False, error="probe failed")
    agent.save_episode("Deploy billing", "Rolled back: health checks too strict", False, 95.0)
    agent.add_semantic("Services need a minute to warm up before they are checked")
    agent.save_skill("roll back", "Return to the last good release", ["rollout undo"])
    agent.record_skill_execution("roll back", success=True, duration=12.5)


QUESTIONS: Final = ("Why did our release fail?", "How do I undo a deployment?")


def ask() -> None:
    """Print, as JSON, what another agent finds in what the first one learned, and the milliseconds it took."""
    from remanence.sync.agents import MemoryArchitecture

    told = []
    with MemoryArchitecture(agent_id="agent_002") as agent:
        agent.search_all("warm")
        for question in QUESTIONS:
            started = time.perf_counter()
            found = agent.search_all(question, limit_per_type=1, explain=True)
            seconds = time.perf_counter() - started
            best = {name: _gist(some[0].memory) for name, some in found.items() if some}
            told.append({"question": question, "milliseconds": seconds * 1000, "found": best})
        _tell({"answers": told, "context": agent.get_enriched_context(QUESTIONS[0], limit_per_type=1)})


def _gist(memory: Any) -> str:
    for name in ("outcome", "pattern"):
        if hasattr(memory, name):
            return str(getattr(memory, name))
    return f"{memory.skill_name}: worked {memory.times_succeeded} of {memory.times_executed} times"


def write(writer: str, pause: float) -> None:
    """Add numbered messages to the session, `pause` seconds between them, until standard input ends.

    Without a pause each is acknowledged by its number on a line, once `add` has returned. With one, a
    report goes out every REPORT_SECONDS.
    """
    memory = MemoryClient()
    resent: list[int] = []
    memory.engine.observe(lambda event: resent.append(event.count) if isinstance(event, Rewound) else None)
    number, slowest, reported = 0, 0.0, 0.0
    while not select.select([sys.stdin], [], [], pause)[0]:
        started = time.monotonic()
        memory.add(SESSION, "user", f"{writer} {number + 1}")
        number += 1
        slowest = max(slowest, time.monotonic() - started)
        if not pause:
            os.write(1, b"%d\n" % number)
        elif started - reported >= REPORT_SECONDS:
            reported = started
            _report(memory, number, slowest, sum(resent))
    memory.engine.flush(FLUSH_SECONDS)
    _report(memory, number, slowest, sum(resent))
    memory.close()


def _report(memory: MemoryClient, number: int, slowest: float, resent: int) -> None:
    waiting = memory.engine.status().pending
    _tell({"written": number, "waiting": waiting, "slowest": slowest, "resent": resent})


def _tell(facts: dict[str, Any]) -> None:
    os.write(1, json.dumps(facts).encode() + b"\n")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["remember"]:
            remember()
        case ["recall"]:
            recall()
        case ["learn"]:
            learn()
        case ["ask"]:
            ask()
        case ["write", name, seconds]:
            write(name, float(seconds))
