"""Addresses of deployments, and what is made of what clusters and Sentinels tell: decisions, without a server."""

import re
from typing import Any

import pytest

from remanence.errors import InvalidSetting, Unavailable
from remanence.options import redis_url
from remanence.runtime.blocking import BlockingRuntime
from remanence.settings import Settings
from remanence.testing.clusters import address
from remanence.wire.address import Node
from remanence.wire.cluster import Range, Topology, read_slots, serving
from remanence.wire.refusals import Refusal, refused
from remanence.wire.sentinel import read_sentinels

# --- addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://h:1/2", "h:1/2"),
        ("redis+cluster://b:2,a:1", "cluster://a:1,b:2"),
        ("redis+cluster://a:1,b:2/", "cluster://a:1,b:2"),
        ("redis+cluster://a:1,b:2,a:1/0", "cluster://a:1,b:2"),
        ("rediss+cluster://u:secret@a", "cluster://a:6379"),
        ("redis+cluster://[::1]:7000,[::2]", "cluster://[::1]:7000,[::2]:6379"),
        ("redis+sentinel://b:2,a/main", "sentinel://a:26379,b:2/main/0"),
        ("redis+sentinel://:secret@a:1,b:2/main/3", "sentinel://a:1,b:2/main/3"),
        ("rediss+sentinel://u:secret@a:1/my%20main/3", "sentinel://a:1/my main/3"),
    ],
)
def test_the_public_name_tells_deployments_apart_and_no_secret(url: str, name: str):
    found = address(url)
    assert found.name == name
    assert "secret" not in repr(found)
    assert found.scheme == ("rediss" if url.startswith("rediss") else "redis")


def test_login_and_database_go_to_every_node():
    found = address("redis+sentinel://us%40er:se%3Acret@a:1/main/3").at(Node("n", 7))
    wanted = {"host": "n", "port": 7, "username": "us@er", "password": "se:cret", "db": 3}
    assert {name: found.options[name] for name in wanted} == wanted
    assert found.kind == "server" and found.name == "n:7/3"


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("redis+sentinel://u:secret@a:1", "/service"),
        ("redis+sentinel://u:secret@a:1/", "/service"),
        ("redis+sentinel://u:secret@a:1/main/x", "/service"),
        ("redis+sentinel://u:secret@a:port/main", "/service"),
        ("redis+sentinel://u:secret@/main", "/service"),
        ("redis+sentinel://u:secret@a:1/main?x=1", "/service"),
        ("redis+cluster://u:secret@a:99999", "host:port[,host:port"),
        ("redis+cluster://u:secret@a:1,,b:2", "host:port[,host:port"),
        ("redis+cluster://", "host:port[,host:port"),
        ("redis+cluster://u:secret@a:1/1", "database 0 alone"),
        ("unix+cluster://u:secret@a", "must begin with"),
        ("sentinel://u:secret@a", "must begin with"),
    ],
)
def test_a_bad_address_says_what_to_write(url: str, advice: str):
    with pytest.raises(InvalidSetting, match=re.escape(advice)) as refusal:
        address(url)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (("h", "x"), "port"),
        (("h", float("inf")), "port"),
        (("h", 10**400), "port"),
        (("h", 6379, float("nan")), "db"),
        (("h", 6379, 10**400), "db"),
        (("h", 6379, -1), "db"),
        (("\ud800",), "host"),
        ((7,), "host"),
        (("h", 6379, 0, 5), "password"),
        (("h", 6379, 0, "secret\ud800"), "password"),
    ],
)
def test_parts_that_make_no_address_are_named(parts: Any, name: str):
    with pytest.raises(InvalidSetting, match=name) as refusal:
        redis_url(*parts)
    assert len(str(refusal.value)) < 100 and "secret" not in str(refusal.value)


def test_a_switch_is_no_tree():
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    for wrong in (deep, {"true": 1}, 1.5):
        with pytest.raises(InvalidSetting, match="true or false"):
            Settings.build({}, allow_volatile=wrong)


def test_the_sentinels_password_is_never_shown():
    settings = Settings.build({}, sentinel_password="canary", url="redis+sentinel://a/main")
    assert "canary" not in repr(settings)
    assert "canary" not in str(Settings.explain({"REMANENCE_SENTINEL_PASSWORD": "canary"}))
    assert Settings.build({}).shown("sentinel_password") == ""


# --- who serves what ------------------------------------------------------------------------------


def test_slots_are_read_as_the_cluster_tells_them():
    asked = Node("asked", 1)
    ranges, nodes = read_slots([[0, 9, [b"a", 7, b"id"], [b"b", 8, b"id"]], [11, 20, [b"", 9], [b"?", 5]]], asked)
    assert ranges == [Range(0, 9, Node("a", 7)), Range(11, 20, Node("asked", 9))]
    assert set(nodes) == {Node("a", 7), Node("b", 8), Node("asked", 9), Node("asked", 5)}
    assert serving(ranges, 9) == Node("a", 7)
    assert serving(ranges, 10) is None
    assert read_slots([[0, 1, [None, 3]]], asked)[0] == [Range(0, 1, Node("asked", 3))]


def test_who_was_lost_lately_is_asked_last():
    topology = Topology(address("redis+cluster://a:1,b:2,c:3"))
    for name, port in (("b", 2), ("a", 1)):
        topology.doubt(Node(name, port))
    assert topology._in_order(BlockingRuntime()) == [Node("c", 3), Node("b", 2), Node("a", 1)]


def test_sentinels_are_learned():
    reply = [[b"name", b"x", b"ip", b"10.0.0.1", b"port", b"26379"], [b"name", b"y"]]
    assert read_sentinels(reply) == [Node("10.0.0.1", 26379)]


@pytest.mark.parametrize("text", ["MOVED 5 h:1", "ASK 5 h:1", "CLUSTERDOWN Hash slot not served", "TRYAGAIN later"])
def test_redirections_pass_by_themselves(text: str):
    error = refused(Refusal(text))
    assert isinstance(error, Unavailable) and error.retryable
    assert error.answered == text.startswith(("ASK", "TRYAGAIN"))
