"""`remanence doctor`: what it finds wrong with servers, journals and machines, and its advice."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from remanence.commands import server_checks
from remanence.commands.checks import judge_filesystem, judge_space, judge_sqlite
from remanence.commands.journals import folder_of, survey
from remanence.model import Put
from remanence.runtime.blocking import run
from remanence.sync.state import Memory
from remanence.testing.command_line import Command
from remanence.testing.deployment import Deployment
from remanence.testing.oracle import QUICK
from remanence.testing.servers import Server
from remanence.wire.sqlite import Database


def checks(out: str) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in json.loads(out)["checks"]}


def test_the_doctor_finds_nothing_wrong_here_and_makes_nothing(spoken: Command, tmp_path: Path):
    code, out, err = spoken("doctor", "--json")
    assert (code, err) == (0, "")
    assert {check["state"] for check in checks(out).values()} <= {"ok", "warn"}
    assert not (tmp_path / "remanence").exists()
    settings = {each["name"]: each for each in json.loads(out)["settings"]}
    assert settings["path"]["source"] == "REMANENCE_PATH"
    assert settings["deadline"] == {"name": "deadline", "value": "1.0", "source": "default"}


def test_the_doctor_on_a_good_server(spoken: Command, fresh_server: Callable[..., Server]):
    server = fresh_server(password="open sesame", persistence="aof")
    url = server.url.replace("open sesame", "open%20sesame")
    code, out, _ = spoken("--url", url, "doctor", "--json")
    assert code == 0
    found = checks(out)
    assert {found[name]["state"] for name in ("server", "role", "memory", "persistence", "clock", "permissions")} == {
        "ok"
    }
    _, out, _ = spoken("--url", url, "doctor")
    assert "redis://:***@127.0.0.1" in out
    assert "sesame" not in out
    with server.client(password="open sesame", decode_responses=True) as client:
        lasting = [key for key in client.scan_iter() if client.ttl(key) < 0]
        assert all(key.endswith(":log") for key in lasting)


def test_the_doctor_on_a_server_that_deletes_memories(spoken: Command, fresh_server: Callable[..., Server]):
    server = fresh_server(extra_args=["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"])
    code, out, _ = spoken("--url", server.url, "doctor")
    assert code == 1
    assert "FAIL  memory" in out
    assert "CONFIG SET maxmemory-policy noeviction" in out
    assert "warn  persistence" in out


def test_the_doctor_tries_permissions_for_real(spoken: Command, fresh_server: Callable[..., Server]):
    server = fresh_server()
    url = server.url.replace("//", "//shy:pw@")
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "shy", "on", ">pw", "~*", "&*", "+@all")
        assert spoken("--url", url, "doctor")[0] == 0
        for needed in ("rpush", "set", "scan", "lrange"):
            client.execute_command("ACL", "SETUSER", "shy", f"-{needed}")
            code, out, _ = spoken("--url", url, "doctor", "--json")
            assert code == 1
            assert checks(out)["permissions"]["state"] == "fail", needed
            client.execute_command("ACL", "SETUSER", "shy", f"+{needed}")


def test_the_doctor_on_a_wrong_password_says_what_to_do(spoken: Command, fresh_server: Callable[..., Server]):
    server = fresh_server(password="right")
    code, out, _ = spoken("--url", server.url.replace("right", "wrong"), "doctor", "--json")
    assert code == 1
    assert "REDIS_PASSWORD" in checks(out)["server"]["found"]


def test_the_doctor_and_stats_tell_journals_apart(spoken: Command, fresh_server: Callable[..., Server]):
    server = fresh_server()
    memory = Memory(url=server.url)
    memory.a = 1
    server.kill()
    memory.b = 2
    folder = folder_of(memory.engine.settings)
    assert folder is not None
    (mine,) = survey(folder)
    assert mine.in_use
    memory.close(0)
    (folder / "1-foreign.journal").write_bytes(b"no database at all, but longer than a header" * 9)
    (folder / "2-empty.journal").touch()
    other = Database(str(folder / "3-later.journal"))
    other.run("CREATE TABLE meta (name TEXT PRIMARY KEY, value ANY)")
    other.run("INSERT INTO meta VALUES ('schema', 99)")
    other.close()
    (folder / "x.journal.damaged-1-abcdef").touch()
    before = {path.name: path.read_bytes() for path in folder.glob("*.journal")}

    code, out, _ = spoken("--url", server.url, "doctor", "--json")
    assert code == 3
    told = [check for check in json.loads(out)["checks"] if check["name"] == "journal"]
    text = "\n".join(check["found"] for check in told)
    assert [check["state"] for check in told] == ["fail", "fail", "fail", "warn", "warn"]
    assert "1-foreign.journal: not a journal" in text
    assert "2-empty.journal: not a journal" in text
    assert "written by another version of Remanence (schema 99; this one knows 1)" in text
    assert "1 pending at most, left by a process that ended" in text
    assert "was damaged and set aside" in text

    code, out, _ = spoken("--url", server.url, "stats", "--json")
    assert code == 3
    found = {Path(each["path"]).name: each for each in json.loads(out)["journals"]}
    left = found[Path(mine.path).name]
    assert (left["pending"], left["retained"], left["dead"], left["in_use"]) == (1, 1, 0, False)
    assert "99" in found["3-later.journal"]["problem"]
    code, out, _ = spoken("--url", server.url, "stats")
    assert "left behind" in out
    assert before == {path.name: path.read_bytes() for path in folder.glob("*.journal")}


@pytest.mark.parametrize(
    ("kind", "version", "state", "advice"),
    [
        ("redis", "6.2.20", "fail", "7.0"),
        ("redis", "7.0.15", "warn", "8.2.2"),
        ("redis", "7.2.10", "warn", "7.2.11"),
        ("redis", "7.2.11", "ok", ""),
        ("redis", "8.2.1", "warn", "8.2.2"),
        ("redis", "8.4.0", "ok", ""),
        ("valkey", "7.2.11", "fail", "8.0"),
        ("valkey", "8.1.3", "warn", "8.1.4"),
        ("valkey", "9.0.0", "ok", ""),
    ],
)
def test_versions(kind: str, version: str, state: str, advice: str):
    found = server_checks.judge_version(kind, version)
    assert found.state == state
    assert advice in found.advice


def test_judgements_of_a_server():
    judge = server_checks
    assert judge.judge_role("slave").state == "fail"
    assert judge.judge_memory({"maxmemory_policy": "volatile-lru"}).state == "warn"
    full = {"maxmemory_policy": "noeviction", "maxmemory": "1000", "used_memory": "950"}
    assert judge.judge_memory(full).state == "warn"
    assert judge.judge_memory(full | {"used_memory": "1"}).state == "ok"
    assert judge.judge_persistence({"aof_enabled": "1", "aof_last_write_status": "err"}).state == "fail"
    assert judge.judge_persistence({"aof_enabled": "0", "rdb_last_bgsave_status": "err"}).state == "fail"
    assert judge.judge_clock(-9).state == "warn"
    assert "9.0 s behind" in judge.judge_clock(-9).found
    assert judge.judge_clock(0.2).state == "ok"
    for host, here in [
        ("localhost", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("10.0.0.1", False),
        ("db", False),
    ]:
        assert judge.is_loopback(host) is here


def test_judgements_of_a_machine():
    assert judge_filesystem("ext4").state == "ok"
    assert judge_filesystem("nfs4").state == "fail"
    assert judge_filesystem("overlay").state == "warn"
    assert judge_space(1 << 20, 1 << 30).state == "fail"
    assert judge_space(100 << 20, 1 << 30).state == "warn"
    assert judge_space(100 << 20, 10 << 20).state == "ok"
    assert judge_sqlite("3.51.2").state == "fail"
    assert judge_sqlite("3.51.3").state == "ok"


def test_a_folder_that_cannot_be_used(spoken: Command, tmp_path: Path):
    (tmp_path / "file").touch()
    os.chmod(tmp_path, 0o500)
    try:
        code, out, _ = spoken("--path", str(tmp_path / "new"), "doctor", "--json")
    finally:
        os.chmod(tmp_path, 0o700)
    if os.geteuid():  # nothing is closed to root
        assert code == 1
        assert checks(out)["folder"]["state"] == "fail"


def test_the_doctor_names_the_commands(deployment: Deployment, answered: Command):
    deployment.dead_append()
    _, told, _ = answered(*deployment.words, "doctor", "--json")
    (check,) = [each for each in told["checks"] if each["name"] == "journal"]
    assert check["state"] == "warn" and "1 dead letter(s)" in check["found"]
    assert "remanence journal dead" in check["advice"]
    assert answered(*deployment.words, "journal", "discard", "--all", "--yes")[0] == 0
    with Memory(url=deployment.settings.url, namespace=deployment.namespace, **QUICK) as memory:
        receipts = run(memory.engine.gateway.write([Put("memory:x", b'{"value":1}', base="other")], ack="store"))
        assert receipts[0].reason == "conflict"
        _, told, _ = answered(*deployment.words, "doctor", "--json")
    advice = [each["advice"] for each in told["checks"] if each["name"] == "journal"]
    assert any("remanence conflicts" in each for each in advice)
