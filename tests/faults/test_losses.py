"""What is lost behind everybody's back: a replica's lag, an evicted watermark, the tail of a file; and long use."""

import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from remanence import Memory, events
from remanence.testing.faults import FaultProxy
from remanence.testing.oracle import QUICK, Heard, child, eventually, judge, open_files
from remanence.testing.servers import Server
from remanence.testing.simple import append, items_of
from remanence.wire.keys import Keyspace

Fresh = Callable[..., Server]
SOAK_SECONDS = float(os.environ.get("SOAK_SECONDS", "3600"))


def test_t03_a_replica_that_lagged_is_promoted(fresh_server: Fresh, namespace: str):
    """What the old primary acknowledged and never passed on comes back, once and in order, and that is told."""
    primary, replica = fresh_server(extra_args=["--repl-diskless-sync-delay", "0"]), fresh_server()
    with FaultProxy(primary) as link, FaultProxy(primary) as proxy, closing(replica.client()) as client:
        client.execute_command("REPLICAOF", "127.0.0.1", link.port)
        assert eventually(lambda: client.info("replication")["master_link_status"] == "up")
        with Memory(url=proxy.url, namespace=namespace, **QUICK) as memory:
            heard = Heard(memory.engine)
            for n in range(1, 21):
                append(memory, f"w:{n}")
            assert eventually(lambda: items_of(replica, namespace) == items_of(primary, namespace))
            link.half_open()
            for n in range(21, 41):
                append(memory, f"w:{n}")
            assert len(items_of(primary, namespace)) == 40
            primary.kill()
            client.execute_command("REPLICAOF", "NO", "ONE")
            assert len(items_of(replica, namespace)) == 20
            proxy._target = replica
            proxy.reset_all()
            for n in range(41, 61):
                append(memory, f"w:{n}")
            assert memory.engine.flush(10.0)
            assert items_of(replica, namespace) == [f"w:{n}" for n in range(1, 61)]
            assert heard.soon(events.Rewound)


def evicting(fresh_server: Fresh) -> Server:
    return fresh_server(extra_args=["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"])


def evict_the_watermark(server: Server, memory: Memory, namespace: str) -> None:
    """As a server does that is short of memory, which then meets the next handshake."""
    with closing(server.client()) as client:
        marks = list(client.scan_iter(Keyspace(namespace).watermark("*")))
        assert len(marks) == 1 and client.delete(*marks) == 1
    assert eventually(lambda: Heard(memory.engine).events or memory.engine.flush(1.0))


@pytest.mark.parametrize("kind", ["counter", "list"])
def test_t21_an_evicted_watermark_makes_nothing_take_effect_twice(fresh_server: Fresh, namespace: str, kind: str):
    server = evicting(fresh_server)
    with Memory(url=server.url, namespace=namespace, **QUICK) as memory:
        heard = Heard(memory.engine)
        memory.n = 0
        assert eventually(lambda: [each.policy for each in heard.of(events.ServerAdvised)] == ["allkeys-lru"])
        for n in range(1, 31):
            if n == 21:
                evict_the_watermark(server, memory, namespace)
            append(memory, f"w:{n}") if kind == "list" else memory.increment("n")
        assert memory.engine.flush(10.0)
        found = items_of(server, namespace) if kind == "list" else list(range(memory.n))
        assert len(found) == 30


def test_t27_an_older_backup_takes_the_place_of_a_journal(server: Server, namespace: str, tmp_path: Path):
    """What it still has is known to the server; what it does not have any more is there all the same."""
    backup = tmp_path / "backup"
    with Memory(url=server.url, namespace=namespace, **QUICK) as memory:
        for n in range(1, 11):
            append(memory, f"w:{n}")
        path = Path(memory.engine.status().journal)
        copy_whole(path, backup)
        for n in range(11, 21):
            append(memory, f"w:{n}")
    for each in path.parent.glob(f"{path.name}*"):
        each.unlink()
    put_back(backup, path)
    with Memory(url=server.url, namespace=namespace, **QUICK) as memory:
        for n in range(21, 31):
            append(memory, f"w:{n}")
        assert memory.engine.flush(10.0)
        time.sleep(0.5)  # for what was adopted to be compared, too
    assert not judge(items_of(server, namespace), [f"w:{n}" for n in range(1, 31)])


def copy_whole(path: Path, backup: Path) -> None:
    backup.mkdir()
    for each in path.parent.glob(f"{path.name}*"):
        shutil.copy(each, backup)


def put_back(backup: Path, path: Path) -> None:
    for each in backup.iterdir():
        shutil.copy(each, path.parent)


CUT_SHORT = """
import os, sys
from remanence import Memory
from remanence.testing.simple import append
memory = Memory(url=sys.argv[1], namespace=sys.argv[2], deadline=0.2, connect_timeout=0.2)
for n in range(1, 31):
    append(memory, f"w:{n}")
print(memory.engine.status().journal, flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("kept", [0.0, 0.4, 0.8])
def test_t28_the_tail_of_a_journal_was_never_on_the_disk(server: Server, namespace: str, kept: float):
    """As after a loss of power: what is left of the write-ahead log goes on without using a number again."""
    path = Path(child(CUT_SHORT, server.url, namespace).strip())
    wal = Path(f"{path}-wal")
    size = wal.stat().st_size
    with wal.open("r+b") as file:
        file.truncate(int(size * kept))
    Path(f"{path}-shm").unlink(missing_ok=True)
    with Memory(url=server.url, namespace=namespace, **QUICK) as memory:
        for n in range(31, 41):
            append(memory, f"w:{n}")
        assert memory.engine.flush(10.0)
        time.sleep(0.5)
    assert not judge(items_of(server, namespace), [f"w:{n}" for n in range(1, 41)])


def test_t51_a_tenants_rights_end_at_its_own_names(fresh_server: Fresh, namespace: str):
    """A user of one namespace works as usual, and reads, writes and lists nothing of another's, not even names."""
    server = fresh_server()
    mine, other = f"{namespace}-a", f"{namespace}-b"
    with Memory(url=server.url, namespace=other) as theirs:
        theirs.secret = "theirs"
    with closing(server.client()) as admin:
        names = [name.decode() for name in admin.scan_iter("*")]
        (tag,) = re.findall(r"\{.*\}", Keyspace(mine).log)
        needed = "EVALSHA EVAL GET GETRANGE SET DEL EXISTS RPUSH LRANGE LLEN PTTL PEXPIRE PERSIST HGET HMGET HSET"
        needed += " XADD XREAD XRANGE XREVRANGE WAIT TIME INFO MULTI EXEC"  # those documented, without SCAN and DBSIZE
        rights = [f"~{tag}:*", f"~remanence:{tag}:*", "-@all", *(f"+{name.lower()}" for name in needed.split())]
        admin.execute_command("ACL", "SETUSER", "tenant", "reset", "on", ">pw", *rights)
        url = f"redis://tenant:pw@127.0.0.1:{server.port}/0"
        with Memory(url=url, namespace=mine, **QUICK) as memory:
            memory.own = 1
            assert memory.engine.flush(5.0) and memory.read("own").source == "store"
        with closing(server.client(username="tenant", password="pw")) as tenant:
            for words in (["SCAN", "0"], ["KEYS", "*"], ["RANDOMKEY"], ["DBSIZE"], *(["TYPE", name] for name in names)):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    tenant.execute_command(*words)


@pytest.mark.soak
@pytest.mark.timeout(SOAK_SECONDS + 600)
def test_t46_an_hour_with_faults_all_the_time(fresh_server: Fresh, namespace: str, tmp_path: Path, campaign: Any):
    """Files, threads and memory stay as they are, at 50 writes a second with a fault every ten seconds."""
    server = fresh_server(persistence="aof")
    with FaultProxy(server) as proxy, Memory(url=proxy.url, namespace=namespace, **QUICK) as memory:
        faults: list[Callable[[], object]] = [proxy.reset_all, server.restart, lambda: frozen(server), proxy.reset_all]
        number = injected = 0
        began, files, threads, used = time.monotonic(), 0, 0, 0
        while (now := time.monotonic() - began) < SOAK_SECONDS:
            number += 1
            append(memory, f"w:{number}")
            time.sleep(0.02)
            if now > 10 * (injected + 1):
                faults[injected % len(faults)]()
                injected += 1
            if not files and now > min(60.0, SOAK_SECONDS / 4):
                files, threads, used = open_files(), threading.active_count(), resident()
        assert memory.engine.flush(20.0)
        found = judge(items_of(server, namespace), [f"w:{n}" for n in range(1, number + 1)])
        campaign(f"{injected} faults", number, len(found.lost), len(found.doubled), len(found.disordered))
        assert not found
        assert eventually(lambda: open_files() <= files + 4) and threading.active_count() <= threads + 2
        assert resident() < used * 1.3 + 20_000_000


def frozen(server: Server) -> None:
    server.pause()
    time.sleep(1.0)
    server.resume()


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
