"""Real clusters and Sentinels for tests: several servers on private ports that know each other.

Everything listens on loopback alone and ends with its `with` block, each process by its own id.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from typing import Any, Self

import redis
import redis.cluster

from remanence.testing.servers import HOST, DidNotStart, PortClaim, Server
from remanence.wire.address import Address
from remanence.wire.keys import SLOTS

FORM_TIMEOUT = 60.0
"""Seconds that servers may take to find each other: they gossip once a second, and the machine may be busy."""


def wait_until(found: Callable[[], Any], meaning: str, timeout: float = FORM_TIMEOUT) -> None:
    """Return once `found` returns true; a server that does not answer yet counts as not yet. Raises `DidNotStart`."""
    limit = time.monotonic() + timeout
    while time.monotonic() < limit:
        try:
            if found():
                return
        except redis.RedisError:
            pass  # not yet: it is asked again
        time.sleep(0.02)
    raise DidNotStart(f"not within {timeout:.0f} s: {meaning}")


def told(server: Server, *words: Any) -> Any:
    """What one server answers to one command."""
    client: Any = server.client(decode_responses=True)  # whose commands have no types
    with closing(client):
        return client.execute_command(*words)


def address(url: str) -> Address:
    """An address as settings read it, with a second for each attempt to connect."""
    return Address(url, connect_timeout=1.0)


class Cluster:
    """`primaries` servers that share the slots evenly, each with one replica, to be used in a `with`.

    `node_timeout` in ms: after how long a silent server counts as failed. Appended files survive a restart.
    """

    def __init__(self, kind: str | None = None, *, primaries: int = 3, node_timeout: int = 1000) -> None:
        self._stack = ExitStack()
        self._buses = [PortClaim() for _ in range(2 * primaries)]
        for bus in self._buses:
            self._stack.callback(bus.release)
        self.servers = [
            Server(
                kind,
                persistence="aof",
                extra_args=[
                    "--cluster-enabled",
                    "yes",
                    "--cluster-port",
                    str(bus.number),
                    "--cluster-node-timeout",
                    str(node_timeout),
                    "--cluster-replica-validity-factor",
                    "0",  # on a busy machine a replica may have been silent for longer than the usual limit
                    "--repl-diskless-sync-delay",
                    "0",
                ],
            )
            for bus in self._buses
        ]
        self._primaries = primaries

    def __enter__(self) -> Self:
        try:
            for server in self.servers:
                self._stack.callback(server.close)
                server.start()
            self._form()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        """The address, of all its servers."""
        return f"redis+cluster://{','.join(f'{HOST}:{server.port}' for server in self.servers)}"

    def client(self) -> "redis.RedisCluster":
        """A plain client of the whole cluster. The caller closes it."""
        kind: Any = redis.cluster.ClusterNode  # untyped in redis-py
        nodes = [kind(HOST, server.port) for server in self.servers if server.running]
        return redis.RedisCluster(startup_nodes=nodes, protocol=2, socket_timeout=2.0)

    def server_at(self, port: int) -> Server:
        """The server that listens on a port."""
        return next(server for server in self.servers if server.port == port)

    def primary_of(self, slot: int) -> Server:
        """Who takes writes for a slot, as most of those that answer see it."""
        votes: dict[int, int] = {}
        for server in self.servers:
            for first, last, primary, *_ in _slots(server):
                if first <= slot <= last:
                    votes[int(primary[1])] = votes.get(int(primary[1]), 0) + 1
        return self.server_at(max(votes, key=lambda port: votes[port]))

    def whole(self) -> bool:
        """Whether all running servers agree on who serves which slots, and each primary has its replica."""
        running = [server for server in self.servers if server.running]
        views = {_view(_slots(server)) for server in running}
        roles = [told(server, "INFO", "replication") for server in running]
        followers = [role for role in roles if role["role"] == "slave"]
        return (
            len(views) == 1
            and len(followers) == len(running) - self._primaries
            and all(role["master_link_status"] == "up" for role in followers)
            and all("cluster_state:ok" in _info(server) for server in running)
        )

    def migrate(self, slot: int, target: Server, between: Callable[[], None] = lambda: None) -> int:
        """Move a slot to another primary, as `redis-cli --cluster reshard` does; how many keys were moved.

        `between` is called when the first half of its keys has been moved.
        """
        source = self.primary_of(slot)
        names = {server.port: told(server, "CLUSTER", "MYID") for server in (source, target)}
        told(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", names[source.port])
        told(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", names[target.port])
        moved, asked = 0, False
        while keys := told(source, "CLUSTER", "GETKEYSINSLOT", slot, 1):
            told(source, "MIGRATE", HOST, target.port, "", 0, 5000, "KEYS", *keys)
            moved += len(keys)
            if not asked:
                asked = True
                between()
        for server in [target, source, *self.servers]:
            if server.running and told(server, "INFO", "replication")["role"] == "master":
                told(server, "CLUSTER", "SETSLOT", slot, "NODE", names[target.port])
        return moved

    def _form(self) -> None:
        primaries, replicas = self.servers[: self._primaries], self.servers[self._primaries :]
        share = SLOTS // self._primaries
        for at, server in enumerate(primaries):
            told(server, "CLUSTER", "SET-CONFIG-EPOCH", at + 1)
            last = SLOTS - 1 if at == self._primaries - 1 else (at + 1) * share - 1
            told(server, "CLUSTER", "ADDSLOTSRANGE", at * share, last)
        for server in self.servers[1:]:
            for bus, other in zip(self._buses, self.servers, strict=True):
                if other is not server:
                    told(server, "CLUSTER", "MEET", HOST, other.port, bus.number)
        wait_until(lambda: all(_knows(each, len(self.servers)) for each in self.servers), "all servers met")
        for primary, replica in zip(primaries, replicas, strict=True):
            told(replica, "CLUSTER", "REPLICATE", told(primary, "CLUSTER", "MYID"))
        wait_until(self.whole, "the cluster is whole")


def _slots(server: Server) -> list[Any]:
    if not server.running:
        return []
    try:
        client: Any = server.client()
        with closing(client):
            client.set_response_callback("CLUSTER SLOTS", lambda reply, **_: reply)
            found: list[Any] = client.execute_command("CLUSTER SLOTS")
            return found
    except redis.RedisError:
        return []


def _view(slots: Sequence[Any]) -> frozenset[Any]:
    """Who serves which slots and who follows whom, whatever the order it is told in."""
    return frozenset((first, last, up[1], frozenset(each[1] for each in down)) for first, last, up, *down in slots)


def _info(server: Server) -> str:
    client: Any = server.client()
    with closing(client):
        client.set_response_callback("CLUSTER INFO", lambda reply, **_: reply.decode())
        return str(client.execute_command("CLUSTER INFO"))


def _knows(server: Server, count: int) -> bool:
    return f"cluster_known_nodes:{count}\r" in _info(server)


# --- Sentinels --------------------------------------------------------------------------------------


class Sentinel(Server):
    """One Sentinel that watches `primary` under the name `service`."""

    def __init__(self, primary: Server, service: str, *, down_after: int, password: str = "") -> None:
        """`down_after`: ms of silence after which the primary counts as down."""
        super().__init__(primary.kind, password=password)
        self._watched = [
            f"sentinel monitor {service} {HOST} {primary.port} 2",
            f"sentinel down-after-milliseconds {service} {down_after}",
            f"sentinel failover-timeout {service} {max(1000, 2 * down_after)}",
            f"sentinel parallel-syncs {service} 1",
            "sentinel resolve-hostnames no",
        ]

    def _arguments(self) -> list[str]:
        file = self.data_folder / "sentinel.conf"
        if not file.exists():
            lines = [f"port {self.port}", f"bind {HOST}", f"dir {self.data_folder}", *self._watched]
            lines += [f'requirepass "{self.password}"'] if self.password else []
            file.write_text("\n".join(lines) + "\n")
        return [str(file), "--sentinel"]


class Watched:
    """A primary, its replica, and three Sentinels that watch over them, to be used in a `with`."""

    service = "memories"

    def __init__(self, kind: str | None = None, *, down_after: int = 1000, password: str = "") -> None:
        """`password`: the Sentinels' own."""
        self._stack = ExitStack()
        options: dict[str, Any] = {"persistence": "aof", "extra_args": ["--repl-diskless-sync-delay", "0"]}
        self.servers = [Server(kind, **options), Server(kind, **options)]
        self._sentinel_options = {"down_after": down_after, "password": password}
        self.sentinels: list[Sentinel] = []

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        primary, replica = self.servers
        for server in self.servers:
            self._stack.callback(server.close)
            server.start()
        told(replica, "REPLICAOF", HOST, primary.port)
        for _ in range(3):
            self.sentinels.append(Sentinel(primary, self.service, **self._sentinel_options))  # type: ignore[arg-type]
            self._stack.callback(self.sentinels[-1].close)
            self.sentinels[-1].start()
        wait_until(self.whole, "the Sentinels know each other and the replica")

    @property
    def url(self) -> str:
        """The address, by all Sentinels."""
        return self.url_by(self.sentinels)

    def url_by(self, sentinels: Sequence[Sentinel]) -> str:
        """The address, by some Sentinels."""
        return f"redis+sentinel://{','.join(f'{HOST}:{each.port}' for each in sentinels)}/{self.service}/0"

    def whole(self) -> bool:
        """Whether each Sentinel knows the two others and a replica that follows."""
        return all(_sees_all(each, self.service) for each in self.sentinels)

    @property
    def primary(self) -> Server:
        """Who is the primary, as most Sentinels see it."""
        named = [int(told(each, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)[1]) for each in self.sentinels]
        port = max(set(named), key=named.count)
        return next(server for server in self.servers if server.port == port)

    def fail_over(self) -> None:
        """Have the Sentinels promote the replica while the primary is well."""
        told(self.sentinels[0], "SENTINEL", "FAILOVER", self.service)


def _sees_all(sentinel: Sentinel, service: str) -> bool:
    with closing(sentinel.client()) as client:
        seen: Any = client.sentinel_master(service)
        replicas: Any = client.sentinel_slaves(service)
    up = [each for each in replicas if each["master-link-status"] == "ok" and not each["is_sdown"]]
    return bool(seen["num-other-sentinels"] == 2 and up and "down" not in seen["flags"])
