"""One frozen tree of options. The environment is read in this file alone.

An explicit option wins over it, it over the default. Each field names its variable.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from remanence.errors import InvalidSetting
from remanence.options import Backend, checked, mask_url, option, redis_url

YEAR = 31536000.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every option with its reason. Durations are seconds, sizes bytes, unless a name says otherwise."""

    backend: Backend = option(
        "sqlite",
        "MEMORY_BACKEND",
        "redis where a server is named, else one SQLite file, or memory",
        choices=("redis", "sqlite", "memory"),
    )
    url: str = option("", "REDIS_URL", "address of the server, of its Sentinels or of its cluster", secret=True)
    namespace: str = option("", "REMANENCE_NAMESPACE", "keeps tenants apart; empty: exactly the documented key names")
    partitions: int = option(
        0, "REMANENCE_PARTITIONS", "parts of a namespace; 0: 8 on a cluster, else 1", least=0, most=1024
    )
    sentinel_password: str = option("", "REMANENCE_SENTINEL_PASSWORD", "password that the Sentinels want", secret=True)
    path: str = option(
        "", "REMANENCE_PATH", "folder of journals and of the embedded file; on a volume that outlives pods"
    )
    durability: Literal["process", "full", "volatile"] = option(
        "process",
        "REMANENCE_DURABILITY",
        "process: a journalled write survives kill -9; full: power loss too; volatile: no disk",
        choices=("process", "full", "volatile"),
    )
    ack: Literal["auto", "journal", "store", "replicated"] = option(
        "auto",
        "REMANENCE_ACK",
        "auto: wait for the server, its journal past the deadline; journal: at once; store: or raise; "
        "replicated: as auto, then for replicas",
        choices=("auto", "journal", "store", "replicated"),
    )
    replicas: int = option(1, "REMANENCE_REPLICAS", "how many replicas ack=replicated waits for", least=1, most=100)
    reads: Literal["fresh", "near", "mirror"] = option(
        "fresh",
        "REMANENCE_READS",
        "fresh: ask the server; near: answer from here what still holds; mirror: from a copy of all on disk",
        choices=("fresh", "near", "mirror"),
    )
    mirror_records: int = option(
        1_000_000, "REMANENCE_MIRROR_RECORDS", "most records in the mirror", least=1, most=1 << 40
    )
    mirror_bytes: int = option(1 << 30, "REMANENCE_MIRROR_BYTES", "most bytes in the mirror", least=1024, most=1 << 44)
    mirror_evict: Literal["lru", "lfu", "age"] = option(
        "lru",
        "REMANENCE_MIRROR_EVICT",
        "what a full mirror lets go: least recently used, least often used, or longest unchanged",
        choices=("lru", "lfu", "age"),
    )
    staleness: float = option(
        3.0,
        "REMANENCE_STALENESS",
        "seconds a near answer may be old: a silent link is noticed by then",
        least=0.01,
        most=60.0,
    )
    fallback: bool = option(True, "REMANENCE_FALLBACK", "false: a server that is away is an error, as ack=store")
    deadline: float = option(
        1.0,
        "REMANENCE_DEADLINE",
        "longest a call waits for the server: a person notices one second",
        least=0.001,
        most=3600.0,
    )
    connect_timeout: float = option(
        1.0, "REMANENCE_CONNECT_TIMEOUT", "longest one attempt to connect lasts", least=0.001, most=600.0
    )
    close_timeout: float = option(
        2.0,
        "REMANENCE_CLOSE_TIMEOUT",
        "longest close and interpreter exit wait for pending writes",
        least=0.0,
        most=3600.0,
    )
    heartbeat: float = option(
        5.0,
        "REMANENCE_HEARTBEAT",
        "how often an idle process asks whether the server forgot something",
        least=0.05,
        most=3600.0,
    )
    backoff_least: float = option(
        0.05, "REMANENCE_BACKOFF_LEAST", "first pause between attempts to reconnect", least=0.001, most=60.0
    )
    backoff_most: float = option(
        2.0, "REMANENCE_BACKOFF_MOST", "longest pause between attempts: back within seconds", least=0.01, most=600.0
    )
    retain: float = option(
        600.0,
        "REMANENCE_RETAIN",
        "how long applied writes are kept against a server that forgets",
        least=0.0,
        most=2592000.0,
    )
    retain_bytes: int = option(
        256 << 20, "REMANENCE_RETAIN_BYTES", "most bytes of applied writes kept", least=0, most=1 << 40
    )
    journal_rows: int = option(
        1_000_000, "REMANENCE_JOURNAL_ROWS", "most pending writes before on_full decides", least=1, most=1 << 40
    )
    journal_bytes: int = option(
        1 << 30,
        "REMANENCE_JOURNAL_BYTES",
        "most bytes of pending writes before on_full decides",
        least=1024,
        most=1 << 42,
    )
    outcomes_kept: int = option(
        10_000, "REMANENCE_OUTCOMES_KEPT", "refused writes kept to be looked at, per journal", least=0, most=100_000_000
    )
    on_full: Literal["raise", "block", "drop_new"] = option(
        "raise",
        "REMANENCE_ON_FULL",
        "what a write does when the journal is full: raise JournalFull, wait to the deadline, or be dropped",
        choices=("raise", "block", "drop_new"),
    )
    on_corrupt: Literal["set_aside", "raise"] = option(
        "set_aside",
        "REMANENCE_ON_CORRUPT",
        "a damaged journal: rename it and go on, or refuse to start",
        choices=("set_aside", "raise"),
    )
    allow_volatile: bool = option(
        False, "REMANENCE_ALLOW_VOLATILE", "run without a journal where its folder cannot be used"
    )
    adopt: bool = option(True, "REMANENCE_ADOPT", "send what processes that ended left in the same folder")
    batch_ops: int = option(128, "REMANENCE_BATCH_OPS", "most writes in one trip to the server", least=1, most=1000)
    linger: float = option(0.005, "REMANENCE_LINGER", "seconds unawaited writes may gather", least=0.0, most=60.0)
    batch_bytes: int = option(256 << 10, "REMANENCE_BATCH_BYTES", "most bytes in one trip", least=1024, most=64 << 20)
    pool: int = option(4, "REMANENCE_POOL", "connections for reads, beside the one that writes", least=1, most=1000)
    value_bytes: int = option(
        1 << 20, "REMANENCE_VALUE_BYTES", "most bytes of one value or message", least=64, most=256 << 20
    )
    key_bytes: int = option(512, "REMANENCE_KEY_BYTES", "most bytes of one key", least=16, most=65536)
    depth: int = option(64, "REMANENCE_DEPTH", "deepest nesting of a JSON value", least=1, most=500)
    log_length: int = option(
        100_000,
        "REMANENCE_LOG_LENGTH",
        "entries kept in the change log of a partition: about 4 MB",
        least=100,
        most=100_000_000,
    )
    tombstone_ttl: float = option(
        604800.0, "REMANENCE_TOMBSTONE_TTL", "how long a delete outlives writes that were offline", least=1.0, most=YEAR
    )
    history: int = option(
        0,
        "REMANENCE_HISTORY",
        "earlier versions of each record that are kept, to look at and go back to: the same in every process",
        least=0,
        most=1000,
    )
    watermark_ttl: float = option(
        2592000.0, "REMANENCE_WATERMARK_TTL", "how long the server remembers a silent journal", least=60.0, most=YEAR
    )
    local_records: int = option(
        10_000,
        "REMANENCE_LOCAL_RECORDS",
        "records remembered on disk for reads while the server is away",
        least=0,
        most=100_000_000,
    )
    redis_prefix: str = option("memory:", "REDIS_PREFIX", "what the keys of shared state begin with")
    key_prefix: str = option("session:", "KEY_PREFIX", "what the keys of session messages begin with")
    session_ttl: float = option(
        3600.0, "SESSION_TTL", "seconds a session lives after its last message", least=0.001, most=10 * YEAR
    )
    roles: str = option("user,assistant", "REMANENCE_ROLES", "roles a message may have, by commas")
    conversation_ttl: float = option(
        43200.0,
        "REMANENCE_CONVERSATION_TTL",
        "seconds a conversation's working memory lives",
        least=0.001,
        most=10 * YEAR,
    )
    working_ttl: float = option(
        3600.0, "REMANENCE_WORKING_TTL", "seconds an agent's steps live after the last", least=0.001, most=10 * YEAR
    )
    episodic_ttl: float = option(
        30 * 86400.0, "REMANENCE_EPISODIC_TTL", "seconds an episode lives", least=0.001, most=10 * YEAR
    )
    semantic_ttl: float = option(
        90 * 86400.0, "REMANENCE_SEMANTIC_TTL", "seconds knowledge lives", least=0.001, most=10 * YEAR
    )
    skill_ttl: float = option(
        180 * 86400.0, "REMANENCE_SKILL_TTL", "seconds a skill lives", least=0.001, most=10 * YEAR
    )
    extend_on_use: bool = option(
        False, "REMANENCE_EXTEND_ON_USE", "whether an agent's memory that is found and used lives anew"
    )
    use_interval: float = option(
        10.0,
        "REMANENCE_USE_INTERVAL",
        "seconds for which uses of memories are gathered: each note of one is a write",
        least=0.05,
        most=3600.0,
    )
    compression_threshold: int = option(
        1024,
        "REMANENCE_COMPRESSION_THRESHOLD",
        "bytes past which an agent's memory is compressed",
        least=0,
        most=1 << 30,
    )
    context_tokens: int = option(
        2000, "REMANENCE_CONTEXT_TOKENS", "most tokens of a context for a model", least=0, most=10_000_000
    )
    consolidate_interval: float = option(
        3600.0,
        "REMANENCE_CONSOLIDATE_INTERVAL",
        "seconds between two passes over agents' memories in the background",
        least=1.0,
        most=YEAR,
    )
    index_messages: bool = option(True, "REMANENCE_INDEX_MESSAGES", "whether session messages are found by search, too")
    index: Literal["local", "redis"] = option(
        "local",
        "REMANENCE_INDEX",
        "local: a file on this machine; redis: vector sets on a Redis 8 server, for namespaces too large to mirror",
        choices=("local", "redis"),
    )
    embedder: str = option(
        "static", "REMANENCE_EMBEDDER", "what turns texts into vectors: static, minilm, none, or service:MODEL"
    )
    tls_ca: str = option("", "REMANENCE_TLS_CA", "file of the authorities that sign the server's certificate")
    tls_cert: str = option("", "REMANENCE_TLS_CERT", "file of this client's certificate (mTLS)")
    tls_key: str = option("", "REMANENCE_TLS_KEY", "file of this client's key (mTLS)")

    models: str = option("", "REMANENCE_MODELS", "folder of fetched models; empty: beside the default `path`")

    @classmethod
    def build(cls, environ: Mapping[str, str] | None = None, /, **options: Any) -> "Settings":
        """Settings from explicit options over the environment (`os.environ` when None) over defaults.

        Raises `InvalidSetting` naming the field, where it came from and what it accepts.
        """
        return _build(cls, os.environ if environ is None else environ, options)[0]

    @classmethod
    def explain(cls, environ: Mapping[str, str] | None = None, /, **options: Any) -> list[tuple[str, str, str]]:
        """(name, value with secrets masked, where it came from) of each field."""
        settings, sources = _build(cls, os.environ if environ is None else environ, options)
        return [(f.name, settings.shown(f.name), sources.get(f.name, "default")) for f in fields(cls)]

    @classmethod
    def at(
        cls,
        host: str | None = None,
        port: int | str | None = None,
        db: int | str | None = None,
        password: str | None = None,
        /,
        **options: Any,
    ) -> "Settings":
        """Settings where the server may be named by its parts; what is not given comes from the environment.

        Any part makes it a Redis server. Raises `InvalidSetting`, also for both a url and parts.
        """
        if host is None and port is None and db is None and password is None:
            return cls.build(**options)
        if options.get("url"):
            raise InvalidSetting("give either a url or host, port, db and password, not both")
        env = os.environ
        url = redis_url(
            env.get("REDIS_HOST") or "localhost" if host is None else host,
            env.get("REDIS_PORT") or 6379 if port is None else port,
            env.get("REDIS_DB") or 0 if db is None else db,
            env.get("REDIS_PASSWORD") or None if password is None else password,
        )
        return cls.build(**{**options, "url": url, "backend": "redis"})

    def deployment(self) -> "Settings":
        """These settings without those of single faces: equal for all that can share connections."""
        plain: dict[str, Any] = {f.name: f.default for f in fields(self) if f.name in FACE_SETTINGS}
        return replace(self, **plain)

    def shown(self, name: str) -> str:
        """A field's value for people, with secrets masked."""
        value = str(getattr(self, name))
        return mask_url(value) if name == "url" else "***" if name == "sentinel_password" and value else value

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{f.name}={self.shown(f.name)!r}' for f in fields(self))})"

    @property
    def folder(self) -> Path:
        """The folder of local files: `path`, or the platform's place for an application's data."""
        return Path(self.path).expanduser() if self.path else default_folder()

    @property
    def models_folder(self) -> Path:
        """Where `remanence model fetch` puts weights, and embedders look for them."""
        return Path(self.models).expanduser() if self.models else default_folder() / "models"


FACE_SETTINGS = (
    "redis_prefix",
    "key_prefix",
    "session_ttl",
    "roles",
    "conversation_ttl",
    "working_ttl",
    "episodic_ttl",
    "semantic_ttl",
    "skill_ttl",
    "extend_on_use",
    "compression_threshold",
    "context_tokens",
    "consolidate_interval",
)
"""What may differ between faces that share an engine."""


def default_folder() -> Path:
    """Where applications keep data: XDG_DATA_HOME on Linux, the like elsewhere."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "remanence"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "remanence"


def surroundings() -> str:
    """What ENVIRONMENT says this process runs in, "development" where it says nothing."""
    return os.environ.get("ENVIRONMENT") or "development"


def _build(cls: type[Settings], environ: Mapping[str, str], options: dict[str, Any]) -> tuple[Settings, dict[str, str]]:
    known = {f.name: f for f in fields(cls)}
    if unknown := sorted(set(options) - set(known)):
        raise InvalidSetting(f"unknown setting {unknown[0]!r}: one of {', '.join(known)}")
    chosen: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name, rule in known.items():
        env = rule.metadata["env"]
        if options.get(name) is not None:
            chosen[name] = checked(name, options[name], rule, "argument")
            sources[name] = "argument"
        elif environ.get(env):
            chosen[name] = checked(name, environ[env], rule, env)
            sources[name] = env
    if not chosen.get("url") and (address := _address(environ)):
        chosen["url"], sources["url"] = address, "REDIS_HOST"
    named = sources.get("url") == "argument" and sources.get("backend") != "argument"
    if named or ("backend" not in chosen and chosen.get("url")):
        chosen["backend"], sources["backend"] = "redis", sources["url"]
    if chosen.get("backend") == "redis" and not chosen.get("url"):
        chosen["url"], sources["url"] = "redis://localhost:6379/0", "default of backend=redis"
    return cls(**chosen), sources


def _address(environ: Mapping[str, str]) -> str:
    """The URL spelled by REDIS_HOST and its companions, "" where they name no server."""
    if not any(environ.get(name) for name in ("REDIS_HOST", "REDIS_PORT")):
        return ""
    return redis_url(
        environ.get("REDIS_HOST") or "localhost",
        environ.get("REDIS_PORT") or 6379,
        environ.get("REDIS_DB") or 0,
        environ.get("REDIS_PASSWORD") or None,
    )
