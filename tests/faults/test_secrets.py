"""What is kept and what is told holds no password, and no value where none belongs."""

import json
import logging
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from remanence import Memory
from remanence.errors import RemanenceError
from remanence.testing.faults import FaultProxy
from remanence.testing.oracle import QUICK, Heard, secrets_in
from remanence.testing.servers import PortClaim, Server
from remanence.wire.keys import Keyspace

Fresh = Callable[..., Server]


PASSWORD = "canary-password-4711"
VALUE = "canary-value-0815"


class Kept(logging.Handler):
    """Everything any logger said."""

    def __init__(self) -> None:
        super().__init__(0)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.getMessage()} {record.exc_text or ''} {record.exc_info or ''}")


def test_t54_no_secret_and_no_value_is_told(fresh_server: Fresh, namespace: str):
    """A run with every kind of failure, after which all that was said is searched for canaries.

    What the server keeps of requests (SLOWLOG, MONITOR) does hold values: that is the operator's to guard.
    """
    server = fresh_server(password=PASSWORD)
    kept = Kept()
    root = logging.getLogger()
    level = root.level
    root.addHandler(kept)
    root.setLevel(0)
    said: list[str] = []

    def attempt(call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:
            chain: BaseException | None = error
            while chain is not None and len(said) < 10_000:
                if isinstance(chain, RemanenceError):
                    said.append(f"{chain!s} {chain!r} {chain.args}")
                chain = chain.__cause__ or chain.__context__

    try:
        with FaultProxy(server) as proxy, Memory(url=proxy.url, namespace=namespace, **QUICK) as memory:
            heard = Heard(memory.engine)
            memory.x = VALUE
            memory.log = [VALUE]
            memory.log.append(VALUE)
            with closing(server.client()) as client:
                name = Keyspace(namespace).data
                client.hset(name("memory:hash"), VALUE, VALUE)
                client.set(name("memory:corrupt"), f"{VALUE} {{")
                attempt(lambda: memory.get("hash"))
                attempt(lambda: memory.set("hash", VALUE))
                attempt(lambda: memory.get("corrupt"))
                attempt(lambda: memory.increment("x"))
                attempt(lambda: memory.log.remove(VALUE + "x"))
                attempt(lambda: memory.set("bad", {"a": [VALUE, {VALUE}]}))
                attempt(lambda: memory.set("large", VALUE * 100_000))
                attempt(lambda: memory.compare_and_set("x", "other", VALUE))
                proxy.drop_replies(3)
                attempt(lambda: memory.set("x", VALUE))
                proxy.heal()
                client.config_set("maxmemory", 1)
                attempt(lambda: memory.set("x", VALUE))
                said.append(str(memory.engine.status()))
                client.config_set("maxmemory", 0)
                memory.engine.flush(2)
                client.config_set("requirepass", "another")
                client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                attempt(lambda: memory.set("x", VALUE))
                attempt(lambda: memory.get("unknown"))
                said.append(str(memory.engine.status()))
                client.config_set("requirepass", PASSWORD)
                memory.engine.flush(2)
            proxy.refuse()
            proxy.reset_all()
            attempt(lambda: memory.set("x", VALUE))
            attempt(lambda: memory.get("unknown"))
            said += [
                repr(memory),
                str(memory.engine.status()),
                repr(memory.engine),
                repr(memory.engine.settings),
            ]
            said += [memory.engine.place, repr(memory.engine.gateway), repr(memory.engine.gateway.store)]  # type: ignore[attr-defined]
            proxy.accept()
            memory.engine.flush(2)
            said += [f"{each} {each!r}" for each in heard.events]
        for url in (
            f"redis://:{PASSWORD}@nowhere.invalid:1/0",
            f"redis://:{PASSWORD}@127.0.0.1:99999/0",
            f"http://u:{PASSWORD}@h",
        ):
            attempt(lambda url=url: Memory(url=url, deadline=0.2, close_timeout=0.1).get("x"))  # type: ignore[misc]
        said += [repr(thread) for thread in threading.enumerate()]
    finally:
        root.removeHandler(kept)
        root.setLevel(level)
    assert len(heard.events) > 20 and len(said) > 30
    told = "\n".join(said + kept.lines)
    assert not secrets_in(told, [PASSWORD]), "the password was told"
    leaks = [line[:200] for line in said + kept.lines if VALUE in line]
    assert not leaks, leaks


def test_t54_files_hold_values_for_their_owner_alone(namespace: str):
    claim = PortClaim()
    claim.release()
    url = f"redis://:{PASSWORD}@127.0.0.1:{claim.number}/0"
    with Memory(url=url, namespace=namespace, **QUICK) as memory:
        memory.x = VALUE
        journal = Path(memory.engine.status().journal)
        files = [each for each in journal.parent.iterdir() if each.is_file()]
        assert files and all(each.stat().st_mode & 0o077 == 0 for each in files)
        assert not any(PASSWORD.encode() in each.read_bytes() for each in files)
    assert json.dumps(str(journal)).find(PASSWORD) < 0
