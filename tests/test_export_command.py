"""`remanence export` and `import`: what is promised to whoever restores a backup."""

import base64
import json
import os
import signal
import subprocess
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from remanence.commands import exporting
from remanence.commands.transfer import Entry, entry_of, line_of
from remanence.engine import BlockingEngine
from remanence.model import Append, Put, Record, Write
from remanence.protocols import Fetch, Lifetime, Tail
from remanence.runtime.blocking import run
from remanence.settings import Settings
from remanence.sync.conversations import RedisWorkingMemoryManager
from remanence.sync.messages import MemoryClient
from remanence.sync.state import Memory
from remanence.testing.command_line import Command, fill, load, started
from remanence.testing.servers import Server


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


def test_no_colour_without_a_terminal_and_line_and_entry_are_each_others_inverse(spoken: Command):
    assert "\x1b" not in spoken("doctor")[1]
    for write in ODD:
        items = write.items if isinstance(write, Append) else (write.body,) if isinstance(write, Put) else ()
        entry = Entry(write.key, "list" if isinstance(write, Append) else "document", items, 5)
        assert entry_of(line_of(entry), Settings.build()) == entry
