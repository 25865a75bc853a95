"""`remanence journal`: dead letters and what waits, looked at and edited beside the processes that own them."""

import os
import pty
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from remanence import events
from remanence.cli import guarded
from remanence.commands.journals import folder_of
from remanence.commands.letters import alone
from remanence.engine import BlockingEngine
from remanence.model import Append, Delete, Put
from remanence.runtime.blocking import run
from remanence.stores.outcomes import UNSURE
from remanence.testing.command_line import Command, started
from remanence.testing.deployment import SECRET, Deployment
from remanence.testing.faults import FaultProxy
from remanence.testing.oracle import Child, Heard, eventually
from remanence.testing.servers import Server


@pytest.fixture
def proxied(server: Server, namespace: str) -> Any:
    """(deployment, proxy) of a server that can go away."""
    with FaultProxy(server) as proxy:
        found = Deployment(proxy.url, namespace, server)
        yield found, proxy
        found.engine.close(0)


def away(proxy: FaultProxy) -> None:
    proxy.refuse()
    proxy.reset_all()


# --- looking --------------------------------------------------------------------------------------


def test_dead_letters_are_listed_without_what_is_in_them(deployment: Deployment, answered: Command):
    before = time.time()
    op_id = deployment.dead_append()
    for words in (("journal", "dead"), ("journal", "dead", "--json")):
        code, told, _ = answered(*deployment.words, *words)
        assert code == 0
        assert SECRET.decode() not in str(told)
        assert op_id in str(told)
    (letter,) = told["dead"]
    assert (told["total"], letter["op_id"], letter["key"], letter["write"]) == (1, op_id, "list", "append")
    assert "another type" in letter["reason"]
    assert before <= letter["wall"] <= time.time()


def test_pending_writes_are_told_oldest_first(proxied: tuple[Deployment, FaultProxy], answered: Command):
    deployment, proxy = proxied
    deployment.write(Put("memory:first", b'{"value":0}'), ack="store")
    away(proxy)
    deployment.write(Put("memory:x", b'{"value":"%s"}' % SECRET))
    time.sleep(0.05)
    deployment.write(Delete("memory:y"), Append("list", (SECRET,)))
    assert deployment.engine.status().pending == 3
    eventually(lambda: deployment.journals()[0].pending == 3)  # what was acknowledged is written down once a second
    code, told, _ = answered(*deployment.words, "journal", "pending", "--json")
    assert (code, told["total"]) == (0, 3)
    assert [(each["kind"], each["key"]) for each in told["pending"]] == [
        ("put", "memory:x"),
        ("delete", "memory:y"),
        ("append", "list"),
    ]
    assert told["pending"][0]["age"] > told["pending"][1]["age"] > 0
    assert told["pending"][0]["bytes"] > len(SECRET)
    _, out, err = answered(*deployment.words, "journal", "pending", "--limit", "1")
    assert "memory:x" in out and "memory:y" not in out and SECRET.decode() not in out
    assert "1 of 3 shown" in err


def test_the_list_tells_journals_apart(proxied: tuple[Deployment, FaultProxy], answered: Command):
    deployment, proxy = proxied
    away(proxy)
    deployment.write(Put("memory:x", b'{"value":1}'))
    time.sleep(0.1)
    _, told, _ = answered(*deployment.words, "journal", "--json")
    (mine,) = told["journals"]
    assert mine["in_use"] and mine["pending"] == 1 and mine["lag"] >= 0.1
    deployment.engine.close(0)
    code, out, _ = answered(*deployment.words, "journal", "list")
    assert code == 0 and "left behind" in out
    folder = folder_of(deployment.settings)
    assert folder
    (folder / "1-foreign.journal").write_bytes(b"no database at all, but longer than a header" * 9)
    for action in ("list", "pending", "dead"):
        code, _, err = answered(*deployment.words, "journal", action)
        assert code == 1, "what cannot be read is not passed over in silence"
        assert "1-foreign.journal: not a journal" in err


def test_where_there_is_no_journal(answered: Command):
    assert answered("journal")[:2] == (0, "no journals\n")
    assert answered("journal", "dead", "--json")[1] == {"total": 0, "dead": []}
    assert answered("journal", "retry", "--all")[0] == 0
    code, _, err = answered("journal", "discard", "A" * 22, "--yes")
    assert code == 2 and "no dead letter" in err


@pytest.mark.parametrize(
    "words",
    [
        ("retry",),
        ("discard",),
        ("retry", "A" * 22, "--all"),
        ("export",),
        ("export", "a", "b"),
        ("list", "A" * 22),
        ("dead", "--all"),
        ("dead", "--limit", "0"),
        ("dance",),
    ],
    ids=" ".join,
)
def test_a_wrong_call_is_one_clear_line(answered: Command, words: tuple[str, ...]):
    code, out, err = answered("journal", *words)
    assert (code, out) == (2, "")
    assert err.startswith("remanence: ") and err.count("\n") == 1


# --- retrying -------------------------------------------------------------------------------------


def test_a_retry_applies_it_once_and_takes_it_out(deployment: Deployment, answered: Command):
    first, second = deployment.dead_append("list", b"one"), deployment.dead_append("other", b"two")
    deployment.unblock("list")
    code, told, _ = answered(*deployment.words, "journal", "retry", first, "--json")
    assert code == 0
    assert [(each["op_id"], each["state"]) for each in told["retried"]] == [(first, "applied")]
    assert deployment.items("list") == [b"one"]
    assert [each.op_id for each in deployment.engine.dead_letters()] == [second], "the owner sees it gone"
    code, _, err = answered(*deployment.words, "journal", "retry", first)
    assert code == 2 and first in err
    assert deployment.items("list") == [b"one"]


def test_all_are_retried_in_the_order_they_died(deployment: Deployment, answered: Command):
    deployment.block("list")
    for item in (b"a", b"b", b"c"):
        deployment.write(Append("list", (item,)), ack="store")
    deployment.unblock("list")
    code, out, _ = answered(*deployment.words, "journal", "retry", "--all")
    assert code == 0 and out.count("applied") == 3
    assert deployment.items("list") == [b"a", b"b", b"c"]
    assert answered(*deployment.words, "journal", "retry", "--all")[1] == "no dead letters\n"


def test_one_that_is_refused_again_stays_and_leaves_no_echo(deployment: Deployment, answered: Command):
    op_id = deployment.dead_append()
    for _ in range(2):
        code, out, _ = answered(*deployment.words, "journal", "retry", "--all")
        assert code == 1 and "still a dead letter: the key holds another type" in out
    deployment.engine.close(0)
    _, told, _ = answered(*deployment.words, "journal", "dead", "--json")
    assert [each["op_id"] for each in told["dead"]] == [op_id]
    assert not told["dead"][0]["reason"].startswith(UNSURE)
    assert sum(each.dead for each in deployment.journals()) == 1


def test_with_the_server_away_it_is_journalled_and_goes_out_later(
    proxied: tuple[Deployment, FaultProxy], answered: Command
):
    deployment, proxy = proxied
    op_id = deployment.dead_append("list", b"late")
    deployment.unblock("list")
    deployment.engine.close()
    away(proxy)
    code, told, _ = answered(*deployment.words, "journal", "retry", op_id, "--json")
    assert code == 0
    assert told["retried"][0]["state"] == "journalled"
    assert sum(each.dead for each in deployment.journals()) == 0
    assert sum(each.pending for each in deployment.journals()) == 1
    proxy.accept()
    deployment.engine = BlockingEngine(deployment.settings)
    run(deployment.engine.gateway.read([]))  # any agent that comes
    assert eventually(lambda: deployment.items("list") == [b"late"])


def test_what_cannot_be_read_stays(deployment: Deployment, answered: Command):
    op_id = deployment.dead_append()
    (journal,) = deployment.journals()
    with closing(sqlite3.connect(journal.path)) as database, database:
        database.execute("UPDATE outcomes SET write = x'80049520636f730a'")
    code, out, _ = answered(*deployment.words, "journal", "retry", op_id)
    assert code == 1 and "its write cannot be read" in out
    _, told, _ = answered(*deployment.words, "journal", "dead", "--json")
    assert [(each["op_id"], each["write"]) for each in told["dead"]] == [(op_id, "unreadable")]


KILLED = """
import os, sys
from remanence.cli import main
from remanence.commands import journal
from remanence.runtime.blocking import run
real = journal.hand_in
async def killed(gateway, write):
    await real(gateway, write)
    print("handed in", flush=True)
    os.kill(os.getpid(), 9)
journal.hand_in = killed
main(sys.argv[1:])
"""


def test_a_retry_that_was_killed_is_not_repeated_by_itself(deployment: Deployment, answered: Command):
    """Killed between the answer and taking it out: an append would be there twice."""
    op_id = deployment.dead_append("list", b"once")
    deployment.unblock("list")
    with Child(KILLED, *deployment.words, "journal", "retry", op_id) as victim:
        assert victim.line() == "handed in"
        victim.process.wait(20)
    assert deployment.items("list") == [b"once"]
    code, told, _ = answered(*deployment.words, "journal", "retry", "--all", "--json")
    assert (code, told) == (1, {"retried": [], "unsure": [op_id]})
    assert deployment.items("list") == [b"once"]
    (letter,) = answered(*deployment.words, "journal", "dead", "--json")[1]["dead"]
    assert letter["reason"].startswith(UNSURE) and "another type" in letter["reason"]
    code, _, _ = answered(*deployment.words, "journal", "retry", op_id)  # whoever looked may say so
    assert code == 0
    assert deployment.items("list") == [b"once", b"once"]


def test_ctrl_c_keeps_the_letter(fresh_server: Callable[..., Server], namespace: str, answered: Command):
    server = fresh_server()
    deployment = Deployment(server.url, namespace, server)
    op_id = deployment.dead_append("list", b"kept")
    deployment.engine.close()
    server.pause()
    environment = {**os.environ, "REMANENCE_DEADLINE": "60", "REMANENCE_CLOSE_TIMEOUT": "0.1"}
    with started(*deployment.words, "journal", "retry", op_id, env=environment) as process:
        marked = lambda: answered(*deployment.words, "journal", "dead")[1].count("handed in again")  # noqa: E731
        assert eventually(marked)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    server.resume()
    assert process.returncode == 130
    assert b"Traceback" not in err and op_id.encode() in err
    (letter,) = answered(*deployment.words, "journal", "dead", "--json")[1]["dead"]
    assert letter["op_id"] == op_id and letter["reason"].startswith(UNSURE)


def test_two_commands_do_not_hand_in_the_same_letter(deployment: Deployment, answered: Command):
    op_id = deployment.dead_append("list", b"once")
    deployment.unblock("list")
    with alone(deployment.settings):
        for words in (("retry", op_id), ("discard", op_id, "--yes")):
            code, _, err = answered(*deployment.words, "journal", *words)
            assert code == 2 and "another command is at work" in err
    assert deployment.items("list") == []
    assert answered(*deployment.words, "journal", "retry", op_id)[0] == 0


def test_a_full_journal_leaves_the_letter_as_it_was(
    proxied: tuple[Deployment, FaultProxy], answered: Command, monkeypatch: pytest.MonkeyPatch
):
    deployment, proxy = proxied
    op_id = deployment.dead_append()
    away(proxy)
    deployment.write(Put("memory:x", b'{"value":1}'))
    deployment.engine.close(0)  # its journal, with one write pending, is what the command goes on with
    monkeypatch.setenv("REMANENCE_JOURNAL_ROWS", "1")
    code, _, err = answered(*deployment.words, "journal", "retry", op_id)
    assert code == 1 and "journal" in err
    (letter,) = answered(*deployment.words, "journal", "dead", "--json")[1]["dead"]
    assert not letter["reason"].startswith(UNSURE), "it was surely not taken"


# --- discarding -----------------------------------------------------------------------------------


def test_discarding_asks_first(deployment: Deployment, answered: Command):
    first, second = deployment.dead_append("a"), deployment.dead_append("b")
    for answer, code, left in (b"n\n", 1, {first, second}), (b"y\n", 0, {second}):
        master, slave = pty.openpty()
        with started(*deployment.words, "journal", "discard", first, stdin=slave) as process:
            os.write(master, answer)
            _, err = process.communicate(timeout=30)
        os.close(master)
        os.close(slave)
        assert process.returncode == code
        assert b"Discard 1 dead letter(s) for good?" in err
        assert {each.op_id for each in deployment.engine.dead_letters()} == left


def test_discarding_with_nobody_to_ask(deployment: Deployment, answered: Command):
    for key in "abc":
        deployment.dead_append(key)
    with started(*deployment.words, "journal", "discard", "--all", stdin=subprocess.DEVNULL) as process:
        _, err = process.communicate(timeout=30)
    assert process.returncode == 2 and b"--yes" in err
    assert deployment.engine.status().dead_letters == 3
    code, told, _ = answered(*deployment.words, "journal", "discard", "--all", "--yes", "--json")
    assert code == 0 and len(told["discarded"]) == 3
    assert deployment.engine.status().dead_letters == 0


def test_a_discarded_letter_is_no_key(proxied: tuple[Deployment, FaultProxy], answered: Command):
    """Its row is still kept against a server that forgets, empty: reads must not take it for something stored."""
    deployment, proxy = proxied
    op_id = deployment.dead_append("list")
    deployment.unblock("list")
    away(proxy)
    scan = lambda: run(deployment.engine.gateway.scan("li"))[0]  # noqa: E731
    assert scan() == []
    assert answered(*deployment.words, "journal", "discard", op_id, "--yes")[0] == 0
    assert scan() == []


def test_words_may_come_before_and_behind_options(deployment: Deployment, answered: Command):
    ids = [deployment.dead_append(key) for key in "abc"]
    words = ("journal", "--json", "discard", ids[0], "--yes", ids[1])
    assert answered(*deployment.words, *words)[:2] == (0, {"discarded": ids[:2]})


def test_an_operation_id_may_begin_with_a_dash(deployment: Deployment, answered: Command):
    deployment.dead_append()
    (journal,) = deployment.journals()
    dashed = "-BCDEFGHIJKLMNOPQRSTUw"
    with closing(sqlite3.connect(journal.path)) as database, database:
        database.execute("UPDATE outcomes SET op_id = ?", (dashed,))
    words = ("journal", "discard", dashed, "--yes", "--json")
    assert answered(*deployment.words, *words)[:2] == (0, {"discarded": [dashed]})
    assert guarded(["a", "--", dashed]) == ["a", "--", dashed]
    assert guarded(["stats", "--json"]) == ["stats", "--json"]
    assert guarded(["forget", "--receipt", dashed, "--json"]) == ["forget", f"--receipt={dashed}", "--json"]
    assert guarded(["forget", "--receipt"]) == ["forget", "--receipt"]


# --- beside a living owner ------------------------------------------------------------------------


def test_the_owner_goes_on_undisturbed(server: Server, namespace: str):
    """While it writes as fast as it can, other processes list, retry and discard in its very journal."""
    deployment = Deployment(server.url, namespace, server)
    dead = [deployment.dead_append(f"list{i}", b"%d" % i) for i in range(6)]
    for i in range(3):
        deployment.unblock(f"list{i}")
    heard = Heard(deployment.engine)
    done = threading.Event()
    failures: list[BaseException] = []
    written = [0]

    def write() -> None:
        try:
            while not done.is_set():
                deployment.write(Append("mine", (b"%d" % written[0],)))
                written[0] += 1
        except BaseException as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for words in (
            ("list",),
            ("pending",),
            ("dead",),
            ("retry", dead[0], dead[1]),
            ("retry", "--all"),
            ("discard", dead[4], "--yes"),
        ):
            with started(*deployment.words, "journal", *words) as process:
                _, err = process.communicate(timeout=60)
            assert process.returncode == (1 if "--all" in words else 0), err
            assert b"Traceback" not in err
    finally:
        done.set()
        writer.join()
    assert not failures
    assert written[0] > 100
    assert deployment.engine.flush(5)
    assert deployment.items("mine") == [b"%d" % n for n in range(written[0])], "each once, in order"
    assert [deployment.items(f"list{i}") for i in range(3)] == [[b"0"], [b"1"], [b"2"]]
    assert {each.op_id for each in deployment.engine.dead_letters()} == {dead[3], dead[5]}
    assert deployment.engine.status().dead_letters == 2
    kinds = (events.JournalSetAside, events.BecameUnavailable, events.Rewound, events.Forked, events.WriteRejected)
    assert [heard.of(kind) for kind in kinds] == [[] for _ in kinds]
    deployment.engine.close()
