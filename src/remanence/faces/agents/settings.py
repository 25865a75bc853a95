"""What the arguments of an agent's memory mean."""

from typing import Any

from remanence.errors import InvalidArgument, InvalidSetting
from remanence.faces.agents.base import Identity
from remanence.settings import Settings


def agent_settings(
    backend: str | None,
    redis_host: str | None,
    redis_port: int | None,
    redis_db: int | None,
    redis_password: str | None,
    embedder: Any,
    options: dict[str, Any],
) -> Settings:
    """The settings of an agent's memory; what is not named comes from the environment (MEMORY_BACKEND, REDIS_HOST, …).

    Raises `InvalidSetting`.
    """
    if isinstance(embedder, str):
        options = {**options, "embedder": embedder}
    named = not (redis_host is None and redis_port is None and redis_db is None and redis_password is None)
    if backend is None or backend == "redis":
        chosen = options if backend is None else {**options, "backend": backend}
        return Settings.at(redis_host, redis_port, redis_db, redis_password, **chosen)
    if named:
        raise InvalidSetting(f"backend {backend!r:.60} has no host, port, db or password: leave them out, or use redis")
    return Settings.build(**{**options, "backend": backend})


def identity(agent_id: str, working_capacity: int, pubsub: bool, consolidates: bool) -> Identity:
    """Who remembers. Raises `InvalidArgument`."""
    if not isinstance(agent_id, str) or not agent_id:
        raise InvalidArgument("agent_id must be text, and not empty")
    return Identity(
        agent_id=agent_id, working_capacity=working_capacity, pubsub=bool(pubsub), consolidates=bool(consolidates)
    )


class Manager:
    """What users of the third seed ask whether the server is there: `memory.redis_manager.available`."""

    def __init__(self, asked: Any) -> None:
        """`asked` tells the status, without asking the server."""
        self._asked = asked

    @property
    def available(self) -> bool:
        """Whether the server answered when it was last asked; True where memories live without one."""
        return bool(self._asked().available)
