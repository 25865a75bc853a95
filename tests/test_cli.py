"""The command line: what it promises to people, to scripts, and to whoever restores a backup."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import remanence
from remanence.cli import VERBS
from remanence.commands import exporting, server_checks, stats
from remanence.commands.checks import judge_filesystem, judge_space, judge_sqlite
from remanence.commands.journals import folder_of, survey
from remanence.commands.transfer import Entry, entry_of, line_of
from remanence.engine import BlockingEngine
from remanence.model import Append, Put, Record, Write
from remanence.protocols import Fetch, Lifetime, Tail
from remanence.runtime.blocking import run
from remanence.settings import Settings
from remanence.sync.conversations import RedisWorkingMemoryManager
from remanence.sync.messages import MemoryClient
from remanence.sync.state import Memory
from remanence.testing.servers import PortClaim, Server
from remanence.wire.sqlite import Database

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def away() -> Iterator[str]:
    """An address where nobody listens."""
    claim = PortClaim()
    yield f"redis://:open%20sesame@127.0.0.1:{claim.number}/0"
    claim.release()


def started(*words: str, **options: Any) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "remanence", *words]
    return subprocess.Popen(command, stderr=subprocess.PIPE, preexec_fn=hear_ctrl_c, **options)


def hear_ctrl_c() -> None:
    """What a terminal's shell does; tests that run in the background ignore SIGINT, and hand that on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


# --- arguments ------------------------------------------------------------------------------------


def test_help_names_every_verb_and_imports_none():
    program = (
        "import sys\nfrom remanence.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted(name for name in sys.modules if name.startswith(('remanence.commands.', 'rich'))))"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    *text, modules = told.stdout.splitlines()
    assert modules == "[]"
    for verb in VERBS:
        assert f"  {verb.name} " in "\n".join(text)


@pytest.mark.parametrize("verb", [verb.name for verb in VERBS])
def test_every_verb_explains_itself_with_the_common_options(spoken: Command, verb: str):
    code, out, _ = spoken(verb, "--help")
    assert code == 0
    assert {"--url", "--path", "--namespace", "--backend", "--json"} <= set(out.replace(",", " ").split())


def test_the_version(spoken: Command):
    assert spoken("--version") == (0, f"remanence {remanence.__version__}\n", "")


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("dance",),
        ("stats", "--loudly"),
        ("stats", "--interval", "0"),
        ("import",),
        ("--backend", "paper", "stats"),
    ],
    ids=" ".join,
)
def test_a_wrong_call_is_one_clear_line_and_exit_code_2(spoken: Command, words: tuple[str, ...]):
    code, out, err = spoken(*words)
    assert (code, out) == (2, "")
    assert err.startswith("remanence: ")
    assert err.count("\n") == 1
    code, out, err = spoken("--json", *words)
    assert (code, out) == (2, "")
    assert json.loads(err)["exit"] == 2


def test_options_count_before_and_after_the_verb(spoken: Command, tmp_path: Path):
    before, after = (str(tmp_path / name) for name in ("before", "after"))
    _, out, _ = spoken("--path", before, "--json", "stats")
    assert json.loads(out)["place"].startswith(before)
    _, out, _ = spoken("--path", before, "stats", "--path", after, "--json", "--namespace", "x")
    assert json.loads(out)["place"].startswith(f"{after}/remanence-")


def test_a_url_said_here_wins_over_the_environment(spoken: Command, away: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MEMORY_BACKEND", "sqlite")
    code, out, _ = spoken("--url", away, "stats", "--json")
    assert code == 3
    assert json.loads(out)["backend"] == "redis"


@pytest.mark.parametrize("verb", ["doctor", "stats", "export", "import"])
def test_a_server_that_is_away_is_exit_code_3_and_no_secret_is_told(
    spoken: Command, away: str, tmp_path: Path, verb: str
):
    file = tmp_path / "export"
    file.write_bytes(
        b'{"remanence":"export","version":1}\n' + line_of(Entry("memory:a", "document", (b'{"value":1}',)))
    )
    words = {"export": ("export", "-"), "import": ("import", str(file))}.get(verb, (verb,))
    for given in (words, (*words, "--json")):
        code, out, err = spoken("--url", away, *given)
        assert code == 3
        assert "cannot be reached" in out + err
        assert "sesame" not in out + err
        assert "Traceback" not in out + err


# --- doctor ---------------------------------------------------------------------------------------


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


# --- stats ----------------------------------------------------------------------------------------


def fill(url: str) -> None:
    with Memory(url=url) as memory, MemoryClient(url=url) as client:
        memory.a, memory.b = 1, {"x": [1]}
        memory.set("brief", "x", ttl=500)
        client.add("s", "user", "hi")
        client.add("s", "assistant", "hällo\n")
    with RedisWorkingMemoryManager(url) as manager:
        manager.store({"conversation_id": "c", "working_memory": "Likes tea"})


def test_stats_count_keys_by_face(spoken: Command, fresh_server: Callable[..., Server]):
    server = fresh_server()
    fill(server.url)
    with server.client() as client:
        client.set("elsewhere", "1")
    code, out, err = spoken("--url", server.url, "stats", "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    keys = told["keys"]
    assert (keys["shared state"], keys["session messages"], keys["conversation memory"]) == (3, 1, 1)
    assert keys[stats.OTHERS] == 1
    assert stats.INTERNAL not in keys, "what the library keeps for itself is no record"
    assert told["change_log"] == 6
    assert told["used_memory"] > 0
    assert not told["keys_cut"]
    _, out, _ = spoken("--url", server.url, "stats")
    assert "shared state" in out
    assert "3 keys" in out


def test_stats_of_a_large_store_say_that_they_were_cut(spoken: Command, monkeypatch: pytest.MonkeyPatch):
    load(Settings.build(), [Put(f"memory:{n}", b'{"value":1}') for n in range(1500)])
    monkeypatch.setattr(stats, "MOST_KEYS", 1000)
    code, out, _ = spoken("stats", "--json")
    assert code == 0
    assert json.loads(out)["keys_cut"]
    assert json.loads(out)["keys"]["shared state"] == 1000
    _, out, _ = spoken("stats")
    assert "1,000+ keys" in out


def test_stats_before_anything_was_stored(spoken: Command, tmp_path: Path):
    code, out, _ = spoken("stats")
    assert code == 0
    assert "nothing stored yet" in out
    assert not (tmp_path / "remanence").exists()


@pytest.mark.parametrize("words", [("--json",), ()])
def test_live_stats_go_on_until_ctrl_c(words: tuple[str, ...]):
    with started("stats", "--live", "--interval", "0.1", *words, stdout=subprocess.PIPE) as process:
        assert process.stdout
        looks: list[bytes] = []
        while len(looks) < 3:
            line = process.stdout.readline()
            assert line
            looks += [line] if b"available" in line else []
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, b"")
    if words:
        assert all(json.loads(look)["available"] for look in looks)


# --- export and import ----------------------------------------------------------------------------


def load(settings: Settings, writes: list[Write]) -> None:
    engine = BlockingEngine(settings)
    for at in range(0, len(writes), 500):
        receipts = run(engine.gateway.write(writes[at : at + 500], ack="store", deadline=30))
        assert {receipt.state for receipt in receipts} == {"applied"}
    engine.close()


def held(settings: Settings, keys: list[str]) -> dict[str, Any]:
    """What is stored at each key, byte for byte, and its lifetime in ms."""
    engine = BlockingEngine(settings)
    found = {}
    for key in keys:
        told, _ = run(engine.gateway.store.read([Fetch(key), Tail(key), Lifetime(key)], time.monotonic() + 9))
        record, items, left = told
        found[key] = (record.body if isinstance(record, Record) else [items] if items else None, left)
    engine.close()
    return found


ODD: list[Write] = [
    Put("memory:float", b'{"value":1.10,"big":123456789012345678901234567890}'),
    Put("memory:pretty", b'{"value":\n  1}'),
    Put("memory:blob", b"\x00\x01\xff\xfe binary"),
    Put("memory:zip", b"\x01" + bytes(range(256)), ttl=60_000),
    Put('memory:quote"d ключ', '{"value":"ü\u2028"}'.encode(), ttl=3_600_000),
    Append(
        "session:json",
        (b'{"role":"user","content":"hi"}', b'{"role":"assistant","content":"yo"}'),
        ttl=90_000,
    ),
    Append("session:text", (b"plain", b'{"role":"user"}', b"with\nlines", b"")),
    Append("session:blob", (b"\xff\x00", b"{}")),
    Append("session:long", tuple(b'{"n":%d}' % n for n in range(1234)), ttl=80_000),
]


def test_what_is_exported_comes_back_byte_for_byte_on_every_backend(
    spoken: Command, server: Server, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(exporting, "LINE_BYTES", 3000)  # a long list in several lines
    keys = [write.key for write in ODD]
    first = Settings.build(url=server.url, namespace=namespace)
    load(first, ODD)
    original = held(first, keys)
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    redis = ("--url", server.url, "--namespace")

    code, out, _ = spoken(*redis, namespace, "export", one, "--json")
    assert (code, json.loads(out)) == (0, {"file": one, "records": len(ODD), "left_out": 0})
    code, out, _ = spoken("import", one, "--json")
    facts = {"file": one, "records": len(ODD), "skipped": 0, "complete": True}
    assert (code, json.loads(out)) == (0, facts)
    assert_equal(held(Settings.build(), keys), original)

    assert spoken("export", two)[0] == 0
    code, out, _ = spoken(*redis, f"{namespace}b", "import", two, "--json")
    assert (code, json.loads(out)) == (0, facts | {"file": two})
    assert_equal(held(Settings.build(url=server.url, namespace=f"{namespace}b"), keys), original)
    assert sorted(entries(one)) == sorted(entries(two))
    assert os.stat(one).st_mode & 0o077 == 0


def assert_equal(found: dict[str, Any], original: dict[str, Any]) -> None:
    assert {key: value for key, (value, _) in found.items()} == {key: value for key, (value, _) in original.items()}
    for key, (_, left) in found.items():
        before = original[key][1]
        assert left == before if before < 0 else before - 20_000 < left <= before, key


def entries(name: str) -> list[tuple[str, int, str]]:
    """Key, place and value of each record in a file."""
    lines = [json.loads(line) for line in Path(name).read_bytes().splitlines()]
    return [(each["key"], each.get("from", 0), json.dumps(each["value"])) for each in lines[1:-1]]


def test_an_export_is_readable_and_faces_understand_what_was_imported(
    spoken: Command, fresh_server: Callable[..., Server], tmp_path: Path
):
    server = fresh_server()
    fill(server.url)
    with server.client() as client:
        client.set("elsewhere", '{"value":1}')
        client.set("memory:foreign", "42")
        client.hset("memory:hash", "a", "1")
    file = str(tmp_path / "export")
    code, _, err = spoken("--url", server.url, "export", file)
    assert code == 0
    assert err.splitlines() == [
        f"5 records exported to {file}",
        "3 keys of other programs, or of types that memories do not use, were left out",
    ]
    lines = {each.get("key"): each for each in map(json.loads, Path(file).read_bytes().splitlines())}
    assert lines["memory:b"]["value"]["value"] == {"x": [1]}
    assert lines["memory:b"]["ttl"] is None
    assert 490 < lines["memory:brief"]["ttl"] <= 500
    assert [message["content"] for message in lines["session:s"]["value"]] == ["hi", "hällo\n"]
    assert spoken("import", file)[0] == 0
    with Memory() as memory, MemoryClient() as client:
        assert memory.b == {"x": [1]}
        assert [message["content"] for message in client.get("s")] == ["hi", "hällo\n"]
    with RedisWorkingMemoryManager(backend="sqlite") as manager:
        assert [note.working_memory for note in manager.retrieve({"conversation_id": "c"})] == ["Likes tea"]


def test_a_prefix_chooses_what_is_exported_and_imported(spoken: Command, tmp_path: Path):
    load(Settings.build(), [Put(f"{name}:1", b'{"value":1}') for name in ("a", "b", "c")])
    code, out, _ = spoken("export", "--prefix", "a:")
    assert code == 0
    assert [json.loads(line).get("key") for line in out.splitlines()] == [None, "a:1", None]
    file = tmp_path / "export"
    assert spoken("export", str(file))[0] == 0
    code, out, _ = spoken("--namespace", "n", "import", str(file), "--prefix", "b:", "--json")
    assert (code, json.loads(out)["records"], json.loads(out)["complete"]) == (0, 1, True)


def test_an_export_overwrites_only_when_told_to(spoken: Command, tmp_path: Path):
    file = tmp_path / "export"
    file.write_text("precious")
    code, _, err = spoken("export", str(file))
    assert (code, file.read_text()) == (2, "precious")
    assert "--overwrite" in err
    assert spoken("export", str(file), "--overwrite")[0] == 0
    assert file.read_text().startswith('{"remanence":"export"')
    assert spoken("export", str(tmp_path / "no" / "where"))[0] == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_one_clear_line(spoken: Command):
    load(Settings.build(), [Put("memory:a", b'{"value":1}')])
    code, _, err = spoken("export", "/dev/full", "--overwrite")
    assert (code, err.splitlines()[-1]) == (1, "remanence: no space left on device")


def exported(path: Path, *lines: bytes) -> str:
    path.write_bytes(b'{"remanence":"export","version":1}\n' + b"".join(lines))
    return str(path)


def document(key: str, value: int) -> bytes:
    return line_of(Entry(key, "document", (b'{"value":%d}' % value,)))


def test_what_exists_is_left_skipped_or_replaced(spoken: Command, tmp_path: Path):
    load(
        Settings.build(),
        [
            Put("memory:b", b'{"value":0}'),
            Append("session:l", (b"old",)),
            Append("memory:turned", (b"list",)),
        ],
    )
    turned = document("memory:turned", 4)
    part = line_of(Entry("session:l", "list", (b"1", b"2")))
    rest = line_of(Entry("session:l", "list", (b"3",), start=2))
    file = exported(tmp_path / "e", document("memory:a", 1), document("memory:b", 2), part, rest, turned)
    keys = ["memory:a", "memory:b", "session:l", "memory:turned"]

    code, _, err = spoken("import", file)
    assert code == 1
    assert "line 3: memory:b exists already: say --on-existing skip or replace" in err
    assert "1 records were imported" in err
    now = held(Settings.build(), keys)
    assert [now[key][0] for key in keys] == [b'{"value":1}', b'{"value":0}', [[b"old"]], [[b"list"]]]

    code, out, _ = spoken("import", file, "--on-existing", "skip", "--json")
    assert (code, json.loads(out)["records"], json.loads(out)["skipped"]) == (0, 0, 4)
    assert held(Settings.build(), keys) == now

    code, out, _ = spoken("import", file, "--on-existing", "replace", "--json")
    assert (code, json.loads(out)["records"], json.loads(out)["skipped"]) == (0, 4, 0)
    now = held(Settings.build(), keys)
    assert [now[key][0] for key in keys] == [
        b'{"value":1}',
        b'{"value":2}',
        [[b"1", b"2", b"3"]],
        b'{"value":4}',
    ]


GOOD = b'{"key":"memory:x","kind":"document","value":{"value":1},"encoding":"json","ttl":null}\n'


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"hello\n", "not a record"),
        (b'["a"]\n', "not a record"),
        (GOOD[:-20] + b"\n", "not a record"),
        (GOOD.replace(b"document", b"hash"), "kind"),
        (GOOD.replace(b'"key"', b'"name"'), "not a record"),
        (GOOD.replace(b'"memory:x"', b'""'), "must not be empty"),
        (GOOD.replace(b'"memory:x"', b'"%b"' % (b"k" * 600)), "REMANENCE_KEY_BYTES"),
        (GOOD.replace(b"null", b"-1"), "ttl"),
        (GOOD.replace(b"null", b"1e300"), "ttl"),
        (GOOD.replace(b"null", b"0"), "ttl"),
        (GOOD.replace(b'{"value":1}', b"1"), "JSON object"),
        (GOOD.replace(b'{"value":1}', b'{"value":"%b"}' % (b"v" * (1 << 21))), "REMANENCE_VALUE_BYTES"),
        (GOOD.replace(b"json", b"text"), "not text"),
        (GOOD.replace(b"json", b"base64").replace(b'{"value":1}', b'"?!"'), "base64"),
        (GOOD.replace(b"json", b"rot13"), "encoding"),
        (GOOD.replace(b"document", b"list").replace(b'{"value":1}', b"[]"), "at least one item"),
        (GOOD.replace(b"document", b"list").replace(b'{"value":1}', b'[1],"from":5'), "goes on"),
        (b"\xff\xfe\n", "not a record"),
    ],
)
def test_a_bad_line_is_named_and_nothing_of_it_is_stored(spoken: Command, tmp_path: Path, line: bytes, reason: str):
    file = exported(tmp_path / "e", document("memory:a", 1), line, document("memory:z", 1))
    code, out, err = spoken("import", file, "--json")
    assert (code, out) == (1, "")
    told = json.loads(err)
    assert f"{file}, line 3: " in told["message"]
    assert reason in told["message"]
    assert "vvvv" not in told["message"]
    found = held(Settings.build(), ["memory:a", "memory:x", "memory:z"])
    assert [value for value, _ in found.values()] == [b'{"value":1}', None, None]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"SQLite format 3\x00" + bytes(100), "is not an export"),
        (GOOD, "is not an export"),
        (b'{"remanence":"export","version":2}\n', "has the export format 2, this version knows 1"),
    ],
)
def test_a_file_that_is_no_export_is_refused(spoken: Command, tmp_path: Path, content: bytes, reason: str):
    (tmp_path / "e").write_bytes(content)
    code, _, err = spoken("import", str(tmp_path / "e"))
    assert code == 1
    assert reason in err


def test_an_export_that_was_cut_short_is_noticed(spoken: Command, tmp_path: Path):
    file = exported(tmp_path / "e", document("memory:a", 1))
    code, _, err = spoken("import", file)
    assert code == 0
    assert "cut short" in err
    file = exported(tmp_path / "e", document("memory:b", 1), b'{"remanence":"end","records":2}\n')
    code, out, _ = spoken("import", file, "--json")
    assert (code, json.loads(out)["complete"]) == (0, False)
    assert spoken("import", str(tmp_path / "missing"))[0] == 2
    assert spoken("--backend", "memory", "import", file)[0] == 2


def test_a_key_that_a_scan_shows_twice_is_exported_once():
    with exporting._seen(needed=True) as unseen:
        assert unseen(["a", "b", "a"]) == ["a", "b"]
        assert unseen(["b", "c"]) == ["c"]


def test_export_and_import_hold_little_in_memory(spoken: Command, tmp_path: Path):
    item, body = base64.b64encode(os.urandom(4500)), base64.b64encode(os.urandom(30_000))
    load(Settings.build(), [Put(f"memory:{n}", b'{"value":"%b"}' % body) for n in range(500)])
    load(Settings.build(), [Append("session:long", (item,) * 100) for _ in range(40)])
    file = tmp_path / "export"
    tracemalloc.start()
    try:
        assert spoken("export", str(file))[0] == 0
        assert spoken("--namespace", "n", "import", str(file))[0] == 0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert file.stat().st_size > 40e6
    assert peak < 15e6


def test_ctrl_c_leaves_whole_lines(tmp_path: Path):
    load(Settings.build(), [Put(f"memory:{n}", b'{"value":"%b"}' % (b"v" * 900)) for n in range(20_000)])
    file = tmp_path / "export"
    with started("export", str(file), stdout=subprocess.DEVNULL) as process:
        while not (file.exists() and file.stat().st_size > 100_000):
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, b"")
    content = file.read_bytes()
    assert content.endswith(b"\n")
    lines = [json.loads(line) for line in content.splitlines()]
    assert 100 < len(lines) < 20_000
    assert "remanence" not in lines[-1]


def test_a_reader_that_goes_away_is_no_error():
    load(Settings.build(), [Put(f"memory:{n}", b'{"value":"%b"}' % (b"v" * 900)) for n in range(500)])
    with started("export", stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr
        assert process.stderr.read() == b""
        assert process.wait(20) == 141


@pytest.mark.parametrize("words", [("doctor",), ("stats",), ("doctor", "--json")])
def test_a_reader_that_never_was_is_no_error_either(words: tuple[str, ...]):
    with started(*words, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.close()
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (141, b"")


def test_no_colour_without_a_terminal_and_line_and_entry_are_each_others_inverse(spoken: Command):
    assert "\x1b" not in spoken("doctor")[1]
    for write in ODD:
        items = write.items if isinstance(write, Append) else (write.body,) if isinstance(write, Put) else ()
        entry = Entry(write.key, "list" if isinstance(write, Append) else "document", items, 5)
        assert entry_of(line_of(entry), Settings.build()) == entry
