import time
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

for name in ("contract", "contract_writes", "store_case"):
    pytest.register_assert_rewrite(f"remanence.testing.{name}")

from remanence.runtime.asynchronous import AsyncRuntime  # noqa: E402
from remanence.runtime.blocking import BlockingRuntime  # noqa: E402
from remanence.stores.redis import RedisStore  # noqa: E402
from remanence.testing.contract import StoreContract  # noqa: E402
from remanence.testing.servers import Server  # noqa: E402
from remanence.testing.store_case import StoreCase, append, delete, put  # noqa: E402
from remanence.wire.keys import Keyspace  # noqa: E402
from remanence.wire.redis import Address, async_connect, blocking_connect  # noqa: E402


class RedisCase(StoreCase):
    options: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(autouse=True)
    def _on_a_server(self, server: Server, namespace: str) -> Iterator[None]:
        self.address = Address(server.unix_url, connect_timeout=5.0)
        self.keys = Keyspace(namespace)
        self.client = server.client()
        yield
        self.client.close()

    def make_store(self) -> RedisStore:
        if self.asynchronous:
            return RedisStore(async_connect(self.address), AsyncRuntime(), self.keys, **self.options)
        return RedisStore(blocking_connect(self.address), BlockingRuntime(), self.keys, **self.options)

    def plant(self, key: str, value: bytes | list[bytes]) -> None:
        if isinstance(value, bytes):
            self.client.set(self.keys.data(key), value)
        else:
            self.client.rpush(self.keys.data(key), *value)


class TestRedisStore(RedisCase, StoreContract):
    def test_other_types_are_another_kind(self) -> None:
        self.client.hset(self.keys.data("h"), "field", "value")
        self.client.zadd(self.keys.data("z"), {"member": 1})
        for key in ("h", "z"):
            assert self.apply(put(1, key), append(2, key)) == ["wrongtype", "wrongtype"]
            assert self.left(key) == -1
            assert self.apply(delete(3, key)) == ["ok"]
            assert self.left(key) == -2


class TestRedisStoreOnALoop(RedisCase, StoreContract):
    asynchronous = True


class TestTime(RedisCase):
    options: ClassVar[dict[str, Any]] = {"tombstone_ttl": 0.1, "watermark_ttl": 0.4}

    def test_what_is_remembered_ends(self) -> None:
        self.apply(delete(9))
        self.open()
        assert self.send(1, put(1, live=False)).results == ("stale",)
        time.sleep(0.12)
        assert self.send(2, put(1, live=False)).results == ("ok",)
        time.sleep(0.4)
        assert self.send(3, put(1)).status == "fenced"
        assert self.open().seq == 0


class TestLog(RedisCase):
    options: ClassVar[dict[str, Any]] = {"log_length": 100}

    def test_the_log_is_bounded(self) -> None:
        self.open()
        for first in range(1, 1000, 100):
            self.send(first, *(put(n) for n in range(first, first + 100)))
        found = [seq for seq, _ in self.history("L", 5000)]
        assert found[0] == 1000 and 100 <= len(found) <= 300, "trimmed by whole nodes of the stream"
        assert found == list(range(1000, 1000 - len(found), -1))


@pytest.mark.parametrize("locale", ["en_US.UTF-8"])
def test_ids_are_compared_by_bytes_whatever_the_locale(locale: str) -> None:
    from importlib import resources

    script = resources.files("remanence.wire").joinpath("lua", "apply.lua").read_text(encoding="utf-8")
    assert "etag > op.id" not in script and "after(etag, op.id)" in script
