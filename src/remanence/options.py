"""What an option is: its variable, its range, and how what people write becomes its value. Reads no environment."""

import os
from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal, TypedDict

from remanence.errors import InvalidSetting

Backend = Literal["redis", "sqlite", "memory"]


def option(default: Any, env: str, meaning: str, **rules: Any) -> Any:
    """A field with its environment variable, its meaning and its range."""
    return field(default=default, metadata={"env": env, "meaning": meaning, **rules})


def mask_url(url: str) -> str:
    """The URL with its password, if any, replaced by three asterisks; never raises."""
    scheme, mark, rest = url.partition("://")
    if not mark or "@" not in rest:
        return url
    login, _, place = rest.rpartition("@")
    user = login.partition(":")[0] if ":" in login else ""
    return f"{scheme}://{user}:***@{place}"


def redis_url(host: str, port: int | str = 6379, db: int | str = 0, password: str | None = None) -> str:
    """A redis:// URL of its parts, the password quoted. Raises `InvalidSetting` for parts that cannot be."""
    from urllib.parse import quote

    try:
        number, base = int(port), int(db)
    except (TypeError, ValueError, OverflowError):
        raise InvalidSetting("port and db must be whole numbers (REDIS_PORT, REDIS_DB)") from None
    if not 0 < number < 65536:
        raise InvalidSetting("port is out of range: 1 to 65535 (REDIS_PORT)")
    if not 0 <= base < 1 << 31:
        raise InvalidSetting("db is out of range: 0 or more (REDIS_DB)")
    if not _is_text(host) or not host or any(c in host for c in " /@?#\n\r\t"):
        raise InvalidSetting("host must be a host name or an address (REDIS_HOST)")
    if password is not None and not _is_text(password):
        raise InvalidSetting("password must be text (REDIS_PASSWORD)")
    login = f":{quote(password, safe='')}@" if password else ""
    place = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"redis://{login}{place}:{number}/{base}"


def _is_text(value: Any) -> bool:
    """Whether it is text that UTF-8 can hold."""
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


def checked(name: str, value: Any, rule: Any, source: str) -> Any:
    """`value` as the field's type, within its range."""
    kind = type(rule.default)
    origin = f"{name} (from {source})"
    if kind is bool:
        return _boolean(value, origin)
    if kind in (int, float):
        return _number(value, kind, rule.metadata, origin)
    if name == "path" and isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        raise InvalidSetting(f"{origin} must be text, not {type(value).__name__}")
    choices = rule.metadata.get("choices")
    if choices and value not in choices:
        raise InvalidSetting(f"{origin} must be one of {', '.join(choices)}")
    return value


_WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def _boolean(value: Any, origin: str) -> bool:
    found = _WORDS.get(str(value).strip().lower()) if isinstance(value, bool | int | str) else None
    if found is None:
        raise InvalidSetting(f"{origin} must be true or false")
    return found


def _number(value: Any, kind: type, rules: Mapping[str, Any], origin: str) -> Any:
    try:
        if isinstance(value, bool):
            raise ValueError
        number = kind(value)
        if kind is int and isinstance(value, float) and value != number:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise InvalidSetting(f"{origin} must be a {'whole ' if kind is int else ''}number") from None
    least, most = rules["least"], rules["most"]
    if not least <= number <= most:
        raise InvalidSetting(f"{origin} must be between {least} and {most}")
    return number


class AgentOptions(TypedDict, total=False):
    """The settings that an agent's memory takes by name beside its own arguments; see `Settings` for each."""

    url: str
    namespace: str
    partitions: int
    sentinel_password: str
    path: str
    durability: Literal["process", "full", "volatile"]
    ack: Literal["auto", "journal", "store", "replicated"]
    replicas: int
    reads: Literal["fresh", "near", "mirror"]
    mirror_records: int
    mirror_bytes: int
    mirror_evict: Literal["lru", "lfu", "age"]
    staleness: float
    fallback: bool
    deadline: float
    connect_timeout: float
    close_timeout: float
    heartbeat: float
    backoff_least: float
    backoff_most: float
    retain: float
    retain_bytes: int
    journal_rows: int
    journal_bytes: int
    outcomes_kept: int
    on_full: Literal["raise", "block", "drop_new"]
    on_corrupt: Literal["set_aside", "raise"]
    allow_volatile: bool
    adopt: bool
    batch_ops: int
    linger: float
    batch_bytes: int
    pool: int
    value_bytes: int
    key_bytes: int
    depth: int
    log_length: int
    tombstone_ttl: float
    history: int
    watermark_ttl: float
    local_records: int
    roles: str
    working_ttl: float
    episodic_ttl: float
    semantic_ttl: float
    skill_ttl: float
    extend_on_use: bool
    use_interval: float
    compression_threshold: int
    context_tokens: int
    consolidate_interval: float
    index_messages: bool
    index: Literal["local", "redis"]
    tls_ca: str
    tls_cert: str
    tls_key: str
    models: str


class Options(AgentOptions, total=False):
    """The settings a face takes by name beside its own arguments; see `Settings` for what each means."""

    backend: Backend
    index: Literal["local", "redis"]
    embedder: str
