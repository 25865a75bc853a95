"""`RedisMemoryAdapter`: an agent's memory for asyncio, and `create_memory_adapter`, which makes one."""

from typing import Any, Unpack

from remanence.aio.opening import AsyncOpened
from remanence.engine import shared_async
from remanence.faces.agents.agents import Agents
from remanence.faces.agents.settings import Manager, agent_settings, identity
from remanence.options import AgentOptions
from remanence.runtime.blocking import run


class RedisMemoryAdapter(AsyncOpened[Agents], Agents):
    """What an agent lived, learned and can do, for asyncio: on Redis, Valkey, one file, or in memory."""

    def __init__(
        self,
        backend: str | None = None,
        agent_id: str = "default",
        session_id: str | None = None,
        redis_host: str | None = None,
        redis_port: int | None = None,
        redis_db: int | None = None,
        redis_password: str | None = None,
        enable_pubsub: bool = True,
        working_capacity: int = 50,
        auto_consolidate: bool = True,
        embedder: Any = None,
        **options: Unpack[AgentOptions],
    ) -> None:
        """As `create_memory_adapter`, without waiting for anything."""
        settings = agent_settings(backend, redis_host, redis_port, redis_db, redis_password, embedder, dict(options))
        who = identity(agent_id, working_capacity, enable_pubsub, auto_consolidate)
        self._engine = shared_async(settings)
        if embedder is not None and not isinstance(embedder, str):
            self._engine.use_embedder(embedder)
        self._engine.agent_opened()
        Agents.__init__(
            self, lambda: self._engine.gateway, lambda: self._engine.library(settings), settings, who, session_id
        )

    @property
    def redis_manager(self) -> Manager:
        """Tells whether the server is there: `redis_manager.available`."""
        return Manager(lambda: run(self._engine.gateway.status()))

    async def close(self, timeout: float | None = None) -> None:
        """Let pending writes go out for at most `timeout` seconds (`close_timeout`); the rest stays journalled."""
        self.leave()
        if not self.__dict__.get("_closed"):
            await self._engine.agent_left()
        await super().close(timeout)

    aclose = close

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._engine.place})"


async def create_memory_adapter(
    backend: str | None = None,
    agent_id: str = "default",
    session_id: str | None = None,
    redis_host: str | None = None,
    redis_port: int | None = None,
    redis_db: int | None = None,
    redis_password: str | None = None,
    enable_pubsub: bool = True,
    working_capacity: int = 50,
    auto_consolidate: bool = True,
    embedder: Any = None,
    **options: Unpack[AgentOptions],
) -> RedisMemoryAdapter:
    """An agent's memory, which has taken up its session.

    `backend` is "redis", "sqlite" (one file) or "memory"; None leaves it to the environment (MEMORY_BACKEND,
    REDIS_URL, REDIS_HOST) and is the file where that names nothing. Redis need not be there: then memories are
    journalled on this machine and sent when it is back. `session_id` names a session to go on with; None begins one.
    `enable_pubsub` tells the channels `agent:memory:{type}` of changes, and the log of other agents'.
    `working_capacity` is how many steps are read back. `auto_consolidate` tends what is remembered in the background,
    every `consolidate_interval` seconds: near-duplicate episodes are merged, reversibly, and patterns learned.
    `embedder` is an object or function that embeds texts in place of what the setting names. Raises
    `InvalidSetting`, `InvalidArgument` and `InvalidKey`.
    """
    made = RedisMemoryAdapter(
        backend,
        agent_id,
        session_id,
        redis_host,
        redis_port,
        redis_db,
        redis_password,
        enable_pubsub,
        working_capacity,
        auto_consolidate,
        embedder,
        **options,
    )
    await made.initialize()
    return made
