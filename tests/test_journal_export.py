"""`remanence journal export`: whole writes, for their owner alone, and how each kind of write is told."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from remanence.commands.letters import line_of
from remanence.model import Append, Delete, Edit, Patch, Put, Touch, Write
from remanence.stores.rows import Outcome, encode, kind_of
from remanence.testing.command_line import Command
from remanence.testing.deployment import Deployment
from remanence.wire import codec


def test_an_export_holds_the_whole_writes_for_its_owner_alone(
    deployment: Deployment, answered: Command, tmp_path: Path
):
    deployment.dead_append("list", b'{"content":"hi"}')
    deployment.block("memory:x")
    edit = Edit(("value",), "increment", b"[1]")
    deployment.write(Patch("memory:x", (edit,), default=b'{"value":0}'), ack="store")
    file = tmp_path / "dead.jsonl"
    old = os.umask(0)
    try:
        code, told, _ = answered(*deployment.words, "journal", "export", str(file), "--json")
    finally:
        os.umask(old)
    assert (code, told["records"]) == (0, 2)
    assert file.stat().st_mode & 0o777 == 0o600
    head, first, second, end = map(json.loads, file.read_bytes().splitlines())
    assert head == {"remanence": "dead-letters", "version": 1}
    assert end == {"remanence": "end", "records": 2}
    assert first["write"] == {"kind": "append", "items": [{"content": "hi"}], "encoding": "json", "ttl": None}
    assert (first["key"], second["key"]) == ("list", "memory:x")
    assert second["write"]["edits"] == [{"path": ["value"], "verb": "increment", "args": [1], "encoding": "json"}]
    assert second["write"]["ttl"] == "keep"
    assert deployment.engine.status().dead_letters == 2, "looking takes nothing out"
    code, _, err = answered(*deployment.words, "journal", "export", str(file))
    assert code == 2 and "exists" in err


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (Put("k", b'{"value":1.10}', 1500, "etag"), {"value": {"value": 1.1}, "ttl": 1.5, "base": "etag"}),
        (Put("k", codec.pack({"a": ["é"]})), {"value": {"a": ["é"]}, "encoding": "packed", "ttl": None}),
        (Put("k", b"\xff\xfe"), {"value": "//4=", "encoding": "base64"}),
        (Put("k", b"two\nlines"), {"value": "two\nlines", "encoding": "text"}),
        (Append("k", (b"1", b"\xff")), {"items": ["MQ==", "/w=="], "encoding": "base64"}),
        (Delete("k"), {"kind": "delete", "base": None}),
        (Touch("k", 60_000), {"kind": "touch", "ttl": 60.0}),
        (None, {"kind": "unreadable", "value": "gAQ=", "encoding": "base64"}),
    ],
    ids=str,
)
def test_lines_of_an_export(write: Write | None, told: dict[str, Any]):
    letter = Outcome("A" * 22, "k", "dead", "why", 1.5, "put")
    line = json.loads(line_of(letter, "j", write, b"\x80\x04"))
    written = line["write"]
    assert {name: written[name] for name in told} == told
    assert (line["op_id"], line["at"], line["reason"]) == ("A" * 22, 1.5, "why")


def test_the_kind_of_a_write_is_told_by_its_first_bytes():
    writes: list[Write] = [Put("k", b"x" * 100), Patch("k", ()), Delete("k"), Append("k", ()), Touch("k", 1)]
    assert [kind_of(encode(write)[:16]) for write in writes] == ["put", "patch", "delete", "append", "touch"]
    for junk in (b"", b"\x93", b"\x93\xa3", b"\x80\x04\x95", b"\x93\xa3xyz", b"\x93\xa3\xff\xff\xff"):
        assert kind_of(junk) == "unreadable"
