"""What `doctor` checks on a server: version, memory policy, persistence, clock, permissions, transport."""

import ipaddress
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from remanence.commands.checks import FAIL, OK, WARN, Check
from remanence.commands.journals import address_of
from remanence.commands.output import lasting, opened, sized
from remanence.engine import BlockingEngine
from remanence.errors import RemanenceError, Unavailable
from remanence.model import Append, Batch, Blank, Op, Put, Touch
from remanence.protocols import Fetch, Lifetime, Store, Tail
from remanence.runtime.blocking import run
from remanence.settings import Settings
from remanence.stores.partitioned import parts_of
from remanence.wire.identity import op_id

LEAST: Final = {"redis": (7, 0), "valkey": (8, 0)}
SCRIPT_FIXES: Final = {
    "redis": ((6, 2, 20), (7, 2, 11), (7, 4, 6), (8, 0, 4), (8, 2, 2)),
    "valkey": ((7, 2, 11), (8, 0, 6), (8, 1, 4), (9, 0, 0)),
}
"""The first release of each line without CVE-2025-49844: who may run scripts could take the server over."""
CLOCK_SECONDS: Final = 5.0
TRIAL_SECONDS: Final = 5
"""How long the trial's records live."""


def examine(settings: Settings, engine: BlockingEngine) -> tuple[list[Check], bool]:
    """The checks of the server, and whether it is away."""
    checks = [_transport(settings)]
    started, before = time.monotonic(), time.time()
    try:
        facts = run(engine.gateway.store.facts(started + settings.deadline))
    except RemanenceError as error:
        return [*checks, Check("server", FAIL, str(error))], isinstance(error, Unavailable)
    took = time.monotonic() - started
    checks.append(Check("server", OK, f"{facts['kind']} {facts['version']} answered in {lasting(took)}"))
    checks += judge_facts(facts, before + took / 2)
    checks.append(_permissions(settings))
    return checks, False


def judge_facts(facts: Mapping[str, str], wall: float) -> list[Check]:
    """What the server's own account means; `wall` is our clock at the moment it answered."""
    return [
        judge_version(facts["kind"], facts["version"]),
        judge_role(facts.get("role", "master")),
        judge_memory(facts),
        judge_persistence(facts),
        judge_clock(float(facts["time"]) - wall),
    ]


def judge_version(kind: str, text: str) -> Check:
    """Whether the version can do what is needed, and is free of a known grave fault."""
    found = tuple(int(part) for part in re.findall(r"\d+", text)[:3])
    least = LEAST[kind]
    if found < least:
        wanted = ".".join(map(str, least))
        return Check("version", FAIL, f"{kind} {text}", f"{kind} {wanted} or later is needed: upgrade it")
    fixed = [each for each in SCRIPT_FIXES[kind] if each[:2] == found[:2]]
    newest = SCRIPT_FIXES[kind][-1]
    if (fixed and found >= fixed[0]) or (not fixed and found >= newest):
        return Check("version", OK, f"{kind} {text}")
    better = ".".join(map(str, fixed[0] if fixed else newest))
    return Check(
        "version",
        WARN,
        f"{kind} {text}: by its number it has CVE-2025-49844 (scripts can take the server over)",
        f"upgrade to {better} or later, unless your distribution has mended it under this number",
    )


def judge_role(role: str) -> Check:
    """Whether it takes writes."""
    if role != "master":
        return Check("role", FAIL, "a read-only replica", "put the address of its primary into REDIS_URL")
    return Check("role", OK, "primary")


def judge_memory(facts: Mapping[str, str]) -> Check:
    """Whether the server may throw memories away, and how full it is."""
    policy = facts.get("maxmemory_policy", "unknown")
    most, used = int(facts.get("maxmemory", 0)), int(facts.get("used_memory", 0))
    told = f"{sized(used)} used of {sized(most)}, {policy}" if most else f"{sized(used)} used, no limit, {policy}"
    if policy != "noeviction" and most:
        advice = "when full it deletes memories: CONFIG SET maxmemory-policy noeviction"
        return Check("memory", FAIL, told, advice)
    if policy != "noeviction":
        return Check("memory", WARN, told, "before setting a limit: CONFIG SET maxmemory-policy noeviction")
    if most and used > 0.9 * most:
        return Check("memory", WARN, told, "nearly full: raise maxmemory before writes are refused")
    return Check("memory", OK, told)


def judge_persistence(facts: Mapping[str, str]) -> Check:
    """What is left of the server's memories after it ended."""
    if facts.get("aof_enabled") == "1":
        if facts.get("aof_last_write_status", "ok") != "ok":
            return Check("persistence", FAIL, "its append-only file cannot be written", "free the server's disk")
        return Check("persistence", OK, "append-only file")
    if facts.get("rdb_last_bgsave_status", "ok") != "ok":
        return Check("persistence", FAIL, "its last snapshot failed", "free the server's disk, and see its log")
    return Check(
        "persistence",
        WARN,
        "snapshots at most: when the server dies, what came after the last one is gone there",
        "journals send again what they still keep (REMANENCE_RETAIN); CONFIG SET appendonly yes keeps all",
    )


def judge_clock(ahead: float) -> Check:
    """How far the server's clock is from ours, in seconds."""
    told = f"the server's is {lasting(abs(ahead))} {'ahead' if ahead > 0 else 'behind'}"
    if abs(ahead) > CLOCK_SECONDS:
        return Check("clock", WARN, told, "times that people see will differ: run NTP on both machines")
    return Check("clock", OK, told)


def _transport(settings: Settings) -> Check:
    address = address_of(settings)
    if address.scheme == "unix":
        return Check("transport", OK, "unix socket")
    if address.scheme == "rediss":
        return Check("transport", OK, "TLS, certificates verified")
    hosts = [node.host for node in address.nodes] or [str(address.options.get("host", "localhost"))]
    host = next((each for each in hosts if not is_loopback(each)), "")
    if not host:
        return Check("transport", OK, "this machine, not encrypted")
    return Check(
        "transport",
        WARN,
        f"memories and password travel to {host} unencrypted",
        "use rediss:// (TLS) outside one machine",
    )


def is_loopback(host: str) -> bool:
    """Whether a host is this very machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


# --- permissions --------------------------------------------------------------------------------


def _permissions(settings: Settings) -> Check:
    """Do for real, on records that end by themselves, what memories will do."""
    brief = replace(settings, tombstone_ttl=float(TRIAL_SECONDS), watermark_ttl=60.0)
    with opened(brief) as engine:
        try:
            for store in [part.store for part in parts_of(engine.gateway)]:
                run(_trial(store, settings))
        except RemanenceError as error:
            return Check("permissions", FAIL, str(error))
    return Check("permissions", OK, "scripts, reads, lists and scans are allowed")


async def _trial(store: Store, settings: Settings) -> None:
    """One record and one list under the prefixes that memories use, written, read and found."""
    name = f"remanence-doctor:{secrets.token_hex(6)}"
    record, listed = settings.redis_prefix + name, settings.key_prefix + name
    limit = time.monotonic() + max(5.0, settings.deadline)
    ttl = TRIAL_SECONDS * 1000
    writes: tuple[Put | Append | Touch | Blank, ...] = (
        Put(record, b'{"value":1}', ttl),
        Append(listed, (b"{}",), ttl),
        Touch(record, ttl),
        Blank(record),
    )
    now = int(time.time() * 1e6)
    ops = [Op(op_id(secrets.token_bytes(16)), now + at, write) for at, write in enumerate(writes)]
    lineage, nonce = f"doctor-{secrets.token_hex(8)}", secrets.token_hex(9)
    await store.open(lineage, nonce, limit)
    await store.apply(Batch(lineage, nonce, 1, ops), limit)
    await store.read([Fetch(record), Tail(listed), Lifetime(record)], limit, [lineage])
    await store.scan(record, "", 10, limit)
    await store.history(lineage, 1, limit)
