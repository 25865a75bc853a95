"""Agents while servers, processes, disks and the index's file fail: nothing saved is lost, and all is found again."""

import ctypes
import json
import os
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from remanence import MemoryArchitecture, events
from remanence.errors import RemanenceError, WorldError
from remanence.search.sqlite import SQLiteIndex
from remanence.testing.faults import FaultProxy
from remanence.testing.oracle import QUICK, Child, Heard, child, eventually
from remanence.testing.servers import PortClaim, Server
from remanence.wire.keys import Keyspace
from remanence.wire.sqlite import FileDamaged

Fresh = Callable[..., Server]


def agent(url: str, namespace: str, name: str = "a", **options: Any) -> MemoryArchitecture:
    given: dict[str, Any] = {**QUICK, "url": url, "namespace": namespace, **options}
    return MemoryArchitecture(agent_id=name, **given)


def prompts(memories: Any) -> list[str]:
    return sorted(each.task_prompt for each in memories)


def everything(memory: MemoryArchitecture) -> list[str]:
    return prompts(memory.list_episodes(limit=1000))


def index_files() -> list[Path]:
    return sorted(Path(os.environ["REMANENCE_PATH"]).glob("search/*.db"))


# --- servers --------------------------------------------------------------------------------------


def test_a_server_that_is_killed_while_agents_save_and_search(fresh_server: Fresh, namespace: str):
    server = fresh_server(persistence="aof", fsync="always")
    with (
        agent(server.url, namespace, session_id="s", local_records=0) as memory,
        agent(server.url, namespace, "b") as other,
    ):
        memory.save_skill("s", "d", [])
        saved: list[str] = []
        counted = 0
        stop = threading.Event()
        failed: list[BaseException] = []

        def work() -> None:
            nonlocal counted
            try:
                while not stop.is_set():
                    memory.add_step("a", "o")
                    saved.append(memory.save_episode(f"memory {len(saved):04}", "o", True, 1.0).task_prompt)
                    memory.record_skill_execution("s", True, 1.0)
                    counted += 1
                    if counted % 5 == 0:
                        memory.save_skill("s", f"d{counted}", [])
            except BaseException as error:
                failed.append(error)

        busy = threading.Thread(target=work)
        busy.start()
        try:
            assert eventually(lambda: counted > 5)
            for _ in range(2):
                server.kill()
                before = counted
                limit = time.monotonic() + 0.5
                while time.monotonic() < limit or counted < before + 3:
                    assert memory.search_episodes("memory 0001", mode="keyword"), "known on this machine"
                    assert other.search_episodes("memory 0001", mode="keyword"), "though another saved it"
                    assert memory.get_recent_steps()
                    assert not failed and time.monotonic() < limit + 20
                server.start()
                assert eventually(lambda: memory.redis_manager.available)
        finally:
            stop.set()
            busy.join(30)
        assert not failed
        assert memory.engine.flush(20)
        assert everything(memory) == saved
        assert eventually(lambda: everything(other) == saved)
        told = other.get_skill("s")
        assert told is not None and told.times_executed == counted and told.total_microseconds == counted * 1_000_000
        assert not memory.engine.conflicts() and not memory.engine.dead_letters()
    with server.client() as plain, closing(plain):
        assert len(list(plain.scan_iter(Keyspace(namespace).data("memory:episodic:*")))) == len(saved)


def test_a_start_without_a_server(fresh_server: Fresh, namespace: str):
    server = fresh_server(persistence="aof")
    with FaultProxy(server) as proxy:
        proxy.refuse()
        with agent(proxy.url, namespace, deadline=0.2) as memory:
            step = memory.add_step("a", "o")
            first = memory.session_id
            second = memory.rotate_session()
            assert memory.rotate_session("named") == "named"
            saved = memory.save_episode("memory", "o", True, 1.0)
            skill = memory.save_skill("s", "d", [])
            assert (skill.times_executed, saved.steps) == (0, [step])
            told = memory.record_skill_execution("s", True, 1.0)
            assert told is not None and told.times_executed == 1
            changed = memory.update_episode(saved.memory_id, outcome="new")
            assert changed is not None and changed.outcome == "new"
            assert [each.outcome for each in memory.search_episodes("memory")] == ["new"]
            assert memory.list_skills().memories == [told] and memory.get_recent_steps() == [step]
            assert memory.get_episode(saved.memory_id) == changed
            assert "[step:1] a" in memory.get_enriched_context("memory")
            gone = memory.save_episode("gone", "o", True, 1.0)
            memory.delete_episode(gone.memory_id)
            assert prompts(memory.search_episodes("gone memory")) == ["memory"]
            assert not memory.redis_manager.available and memory.get_stats()["pending"] > 0
            proxy.accept()
            assert memory.engine.flush(10)
            assert memory.get_session_history() == [first, second, "named"]
            assert memory.get_episode(saved.memory_id) == changed and memory.get_skill("s") == told
            assert eventually(lambda: everything(memory) == ["memory"])
    with agent(server.url, namespace, "b", durability="volatile") as other:
        assert [each.outcome for each in other.search_episodes("memory")] == ["new"]
        assert [each.times_executed for each in other.list_skills()] == [1] and everything(other) == ["memory"]


def test_a_server_that_forgot_all(fresh_server: Fresh, namespace: str):
    """What it had acknowledged is sent again, and found again by everybody."""
    server = fresh_server()
    with agent(server.url, namespace) as memory, agent(server.url, namespace, "b", durability="volatile") as other:
        saved = [memory.save_episode(f"memory {n:02}", "o", True, 1.0).task_prompt for n in range(20)]
        assert eventually(lambda: everything(other) == saved)
        server.restart_empty()
        assert eventually(lambda: everything(memory) == saved and everything(other) == saved, 20)
        assert sorted(memory.engine.status().counters) and memory.get_stats()["episodic"] == 20


@pytest.mark.parametrize("followed", [True, False])
def test_a_server_whose_memories_are_gone_for_good(fresh_server: Fresh, namespace: str, followed: bool):
    """Also where the process ended before it heard the log tell of what it wrote."""
    server = fresh_server()
    with agent(server.url, namespace, retain=0.0) as memory:
        memory.save_episode("memory", "o", True, 1.0)
        assert everything(memory) == ["memory"]
    server.restart_empty()
    shutil.rmtree(Path(os.environ["REMANENCE_PATH"]) / "journals")
    if not followed:
        with closing(sqlite3.connect(index_files()[0])) as database, database:
            database.execute("UPDATE followed SET cursor = '/'")
    with agent(server.url, namespace, retain=0.0) as memory:
        assert eventually(lambda: memory.get_stats()["episodic"] == 0)
        assert everything(memory) == [] == memory.search_episodes("memory")


def test_a_log_that_was_cut_off_while_nobody_followed(any_server: Server, namespace: str):
    with agent(any_server.url, namespace, log_length=100) as memory:
        first = memory.save_episode("memory first", "o", True, 1.0)
        assert everything(memory) == ["memory first"]
    with agent(any_server.url, namespace, "b", log_length=100, path=str(index_files()[0].parent / "x")) as other:
        other.delete_episode(first.memory_id)
        saved = [other.save_episode(f"memory {n:03}", "o", True, 1.0).task_prompt for n in range(400)]
    with agent(any_server.url, namespace, log_length=100) as memory:
        assert eventually(lambda: everything(memory) == saved)
        assert eventually(lambda: memory.get_stats()["episodic"] == 400)  # what is gone is let go of last
        assert memory.search_episodes("first", mode="keyword") == []


# --- processes ------------------------------------------------------------------------------------

KILLED = """
import json, os, signal, sys
from remanence import MemoryArchitecture
from remanence.faces.agents.catalogue import Catalogue

with MemoryArchitecture(**json.loads(sys.argv[1])) as memory:
    memory.save_episode("memory before", "o", True, 1.0)
    memory.add_step("a", "o")
    def killed(*_):
        os.kill(os.getpid(), signal.SIGKILL)
    Catalogue._put = killed
    memory.save_episode("memory at the end", "o", True, 1.0)
"""


@pytest.mark.parametrize("backend", ["redis", "sqlite"])
def test_a_process_that_is_killed_between_store_and_index(any_server: Server, namespace: str, backend: str):
    there: dict[str, Any] = {"namespace": namespace, "session_id": "s"}
    there |= {"url": any_server.url} if backend == "redis" else {"backend": "sqlite"}
    with Child(KILLED, json.dumps(there)) as killed:
        code, _, complaints = killed.end()
        assert code == -signal.SIGKILL, complaints
    with MemoryArchitecture(**there) as memory:
        assert eventually(lambda: everything(memory) == ["memory at the end", "memory before"])
        (found,) = memory.search_episodes("end", mode="keyword")
        assert [step.action for step in found.steps] == ["a"]


SAVING = """
import json, sys
from remanence import MemoryArchitecture
name, there = sys.argv[1], json.loads(sys.argv[2])
with MemoryArchitecture(agent_id=name, **there) as memory:
    memory.save_skill("s", "d", [])
    print("ready", flush=True)
    input()
    for n in range(30):
        memory.save_episode(f"{name} {n:02}", "o", True, 1.0)
        memory.record_skill_execution("s", True, 0.5)
        (found,) = memory.search_episodes(f"{name} {n:02}", 1, mode="keyword", agent_id=name)
        assert found.task_prompt == f"{name} {n:02}"
        if n % 10 == 0:
            memory.add_step("a", "o")
    print("done", flush=True)
    input()
    print(len(memory.list_episodes(limit=1000)), memory.get_stats()["episodic"], memory.get_skill("s").times_executed)
"""


@pytest.mark.parametrize("backend", ["redis", "sqlite"])
def test_processes_that_share_one_index_file(any_server: Server, namespace: str, backend: str):
    there: dict[str, Any] = {"namespace": namespace}
    there |= {"url": any_server.url} if backend == "redis" else {"backend": "sqlite"}
    with Child(SAVING, "one", json.dumps(there)) as one, Child(SAVING, "two", json.dumps(there)) as two:
        assert one.line() == two.line() == "ready"
        for each in (one, two):
            each.say()
        wanted = sorted(f"{name} {n:02}" for name in ("one", "two") for n in range(30))
        with MemoryArchitecture(agent_id="three", **there) as memory:
            assert one.line() == two.line() == "done"
            assert eventually(lambda: everything(memory) == wanted, 30)
            for each in (one, two):
                each.say()
            ends = [each.end() for each in (one, two)]
            assert [(code, complaints) for code, _, complaints in ends] == [(0, "")] * 2
            assert {out for _, out, _ in ends} == {"60 60 60\n"}
            assert len(index_files()) == 1


FORKING = """
import json, os, sys
from remanence import MemoryArchitecture
memory = MemoryArchitecture(agent_id="a", session_id="s", **json.loads(sys.argv[1]))
memory.save_episode("memory of the parent", "o", True, 1.0)
memory.search_episodes("memory")
children = []
for n in range(3):
    pid = os.fork()
    if pid == 0:
        try:
            memory.add_step(f"child {n}", "o")
            memory.save_episode(f"memory of child {n}", "o", True, 1.0)
            found = memory.search_episodes("memory", 50)
            assert {each.task_prompt for each in found} >= {"memory of the parent", f"memory of child {n}"}, found
            memory.close()
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
    children.append(pid)
    memory.save_episode(f"memory after {n}", "o", True, 1.0)
assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0]
import time
limit = time.monotonic() + 10
while len(memory.list_episodes()) < 7:
    assert time.monotonic() < limit, memory.list_episodes()
    time.sleep(0.05)
print(len(memory.search_episodes("memory", 50)), memory.get_stats()["working_steps"])
memory.close()
"""


@pytest.mark.parametrize("backend", ["redis", "sqlite"])
def test_fork(any_server: Server, namespace: str, backend: str):
    there: dict[str, Any] = {"namespace": namespace}
    there |= {"url": any_server.url} if backend == "redis" else {"backend": "sqlite"}
    assert child(FORKING, json.dumps(there)) == "7 3\n"


INTERRUPTED = """
import json, sys, warnings
from remanence import MemoryArchitecture
warnings.filterwarnings("ignore", "coroutine .* was never awaited")  # it may strike between a call and its await
memory = MemoryArchitecture(agent_id="a", **json.loads(sys.argv[1]))
for n in range(50):
    memory.save_episode(f"memory {n}", "o", True, 1.0)
print("ready", flush=True)
interrupted = 0
while interrupted < 8:
    try:
        while True:
            assert len(memory.search_episodes("memory", 50)) == 50
    except KeyboardInterrupt:
        interrupted += 1
        print("interrupted", flush=True)
memory.save_episode("memory after", "o", True, 1.0)
assert len(memory.search_episodes("memory", 60)) == 51
print(len(memory.list_episodes(limit=100)), flush=True)
memory.close()
"""


def test_ctrl_c_in_a_search(any_server: Server, namespace: str):
    with Child(INTERRUPTED, json.dumps({"url": any_server.url, "namespace": namespace})) as searching:
        assert searching.line() == "ready"
        for n in range(8):
            time.sleep(0.02 + n * 0.003)
            searching.signal(signal.SIGINT)
            assert searching.line() == "interrupted", searching.end()
        assert searching.line() == "51"
        assert searching.end() == (0, "", "")


# --- the index's file -----------------------------------------------------------------------------


def damage(path: Path, keep: int = 0) -> None:
    """Noise in place of a file and its log, but for the first `keep` bytes."""
    for each in (path, Path(f"{path}-wal")):
        with suppress(FileNotFoundError), each.open("r+b") as file:
            size = each.stat().st_size
            file.seek(min(size, keep))
            file.write(os.urandom(max(0, size - keep)))


@pytest.mark.parametrize("what", ["damaged", "damaged inside", "deleted", "cut short", "a folder's"])
def test_an_index_file_that_is_lost_while_closed(any_server: Server, namespace: str, what: str):
    with agent(any_server.url, namespace) as memory:
        saved = [memory.save_episode(f"memory {n:02}", "o", True, 1.0).task_prompt for n in range(30)]
    (path,) = index_files()
    for each in path.parent.glob(f"{path.name}-*"):
        each.unlink()
    if what.startswith("damaged"):
        damage(path, 0 if what == "damaged" else 8192)
    elif what == "cut short":
        os.truncate(path, path.stat().st_size // 3)
    else:
        path.unlink()
    if what == "a folder's":
        path.mkdir()
    with agent(any_server.url, namespace) as memory:
        heard = Heard(memory.engine)
        again = memory.save_episode("memory again", "o", True, 1.0)
        assert memory.get_episode(again.memory_id) == again, "the store has it in any case"
        if what == "a folder's":
            assert heard.of(events.IndexFailed)
            with pytest.raises(RemanenceError, match=str(path)):
                memory.search_episodes("memory")
        else:
            assert eventually(lambda: everything(memory) == [*saved, "memory again"])
            assert len(memory.search_episodes("memory", 50)) == 31


@pytest.mark.parametrize("what", ["damaged", "damaged inside", "deleted"])
def test_an_index_file_that_is_lost_while_open(any_server: Server, namespace: str, what: str):
    with agent(any_server.url, namespace) as memory:
        saved = [memory.save_episode(f"memory {n:02}", "o", True, 1.0).task_prompt for n in range(30)]
        assert len(memory.search_episodes("memory", 50)) == 30
        (path,) = index_files()
        if what == "deleted":
            path.unlink()
        else:
            damage(path, 0 if what == "damaged" else 8192)
            memory.engine.hold().close()  # as for a fork: what was read is read anew
        saved.append(memory.save_episode("memory again", "o", True, 1.0).task_prompt)

        def found() -> bool:
            try:
                return everything(memory) == saved and len(memory.search_episodes("memory", 50)) == 31
            except (RemanenceError, WorldError):
                return False

        assert eventually(found), "it is made anew from the store"
    with agent(any_server.url, namespace) as memory:
        assert eventually(lambda: everything(memory) == saved)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB, where root may mount one."""
    libc = ctypes.CDLL(None, use_errno=True)
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() or libc.mount(b"none", bytes(folder), b"tmpfs", 0, b"size=6m"):
        pytest.skip("only root may mount the small file system this needs")
    yield folder
    libc.umount2(bytes(folder), 2)  # detached: what is still open closes later


def test_a_full_disk_for_the_index(small_disk: Path, any_server: Server, namespace: str, tmp_path: Path):
    """The journal's disk has room: saving goes on, and what could not be indexed is found once there is room."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "search").symlink_to(small_disk)
    with agent(any_server.url, namespace, path=str(home)) as memory:
        heard = Heard(memory.engine)
        memory.get_stats()
        ballast = small_disk / "ballast"
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        saved = [memory.save_episode(f"memory {n:03} {os.urandom(3000).hex()}", "o", True, 1.0) for n in range(40)]
        assert eventually(lambda: heard.of(events.IndexFailed))
        assert memory.get_episode(saved[-1].memory_id) == saved[-1]
        ballast.unlink()
        assert eventually(lambda: everything(memory) == prompts(saved))
        assert len(memory.search_episodes("memory", 100, mode="keyword")) == 40


def test_nobody_at_the_address_and_none_ever(namespace: str):
    """Searches and contexts never wait longer than their deadline, and a little."""
    claim = PortClaim()
    with agent(f"redis://127.0.0.1:{claim.number}/0", namespace, deadline=0.2) as memory:
        memory.search_all("x")
        started = time.monotonic()
        memory.save_episode("memory", "o", True, 1.0)
        for _ in range(10):
            assert prompts(memory.search_episodes("memory")) == ["memory"]
            memory.get_context()
        assert time.monotonic() - started < 10 * 0.3
    claim.release()


def test_a_file_that_turns_out_damaged_in_a_search_is_made_anew(
    any_server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch
):
    broken, reading = [FileDamaged("its pages contradict each other")], SQLiteIndex._reading

    def once(index: SQLiteIndex) -> Any:
        if broken:
            raise broken.pop()
        return reading(index)

    with agent(any_server.url, namespace) as memory:
        saved = memory.save_episode("memory", "o", True, 1.0)
        memory.get_stats()
        monkeypatch.setattr(SQLiteIndex, "_reading", once)
        memory.search_episodes("memory")  # what is made anew is found a moment later
        assert not broken
        assert eventually(lambda: memory.search_episodes("memory") == [saved])
