"""`MemoryArchitecture`: an agent's memory without `await`."""

from typing import Any, Unpack

from remanence.engine import shared_blocking
from remanence.faces.agents.agents import Agents
from remanence.faces.agents.settings import Manager, agent_settings, identity
from remanence.options import AgentOptions
from remanence.sync.opening import Opened, blocking
from remanence.sync.watching import watching


class MemoryArchitecture(Opened[Agents]):
    """What an agent lived, learned and can do: the verbs of `RedisMemoryAdapter`, without `await`.

    >>> with MemoryArchitecture(backend="memory", agent_id="agent_001") as memory:
    ...     step = memory.add_step(action="search_web", observation="Found 10 results")
    ...     episode = memory.save_episode("Research topic X", "Gathered information", True, 5.2)
    ...     [found.task_prompt for found in memory.search_episodes("research")]
    ['Research topic X']
    """

    initialize = blocking(Agents.initialize)
    add_step = blocking(Agents.add_step)
    get_recent_steps = blocking(Agents.get_recent_steps)
    get_context = blocking(Agents.get_context)
    get_enriched_context = blocking(Agents.get_enriched_context)
    tell_context = blocking(Agents.tell_context)
    rotate_session = blocking(Agents.rotate_session)
    get_session_history = blocking(Agents.get_session_history)
    save_episode = blocking(Agents.save_episode)
    get_episode = blocking(Agents.get_episode)
    update_episode = blocking(Agents.update_episode)
    delete_episode = blocking(Agents.delete_episode)
    list_episodes = blocking(Agents.list_episodes)
    search_episodes = blocking(Agents.search_episodes)
    add_semantic = blocking(Agents.add_semantic)
    get_semantic = blocking(Agents.get_semantic)
    get_source_episodes = blocking(Agents.get_source_episodes)
    validate_semantic = blocking(Agents.validate_semantic)
    update_semantic = blocking(Agents.update_semantic)
    delete_semantic = blocking(Agents.delete_semantic)
    list_semantic = blocking(Agents.list_semantic)
    search_semantic = blocking(Agents.search_semantic)
    save_skill = blocking(Agents.save_skill)
    get_skill = blocking(Agents.get_skill)
    record_skill_execution = blocking(Agents.record_skill_execution)
    update_skill = blocking(Agents.update_skill)
    delete_skill = blocking(Agents.delete_skill)
    list_skills = blocking(Agents.list_skills)
    search_skills = blocking(Agents.search_skills)
    search_all = blocking(Agents.search_all)
    search_messages = blocking(Agents.search_messages)
    load = blocking(Agents.load)
    find = blocking(Agents.find)
    get_many = blocking(Agents.get_many)
    delete = blocking(Agents.delete)
    consolidate_now = blocking(Agents.consolidate_now)
    extract_patterns = blocking(Agents.extract_patterns)
    unmerge = blocking(Agents.unmerge)
    audit = blocking(Agents.audit)
    forget = blocking(Agents.forget)
    pin = blocking(Agents.pin)
    unpin = blocking(Agents.unpin)
    get_stats = blocking(Agents.get_stats)
    watch = watching(Agents.watch)
    on_change = watching(Agents.on_change)

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
        """As `create_memory_adapter`; connects to nothing. The session is taken up by the first call."""
        settings = agent_settings(backend, redis_host, redis_port, redis_db, redis_password, embedder, dict(options))
        who = identity(agent_id, working_capacity, enable_pubsub, auto_consolidate)
        self._engine = shared_blocking(settings)
        if embedder is not None and not isinstance(embedder, str):
            self._engine.use_embedder(embedder)
        self._engine.agent_opened()
        self._face = Agents(
            lambda: self._engine.gateway, lambda: self._engine.library(settings), settings, who, session_id
        )

    @property
    def agent_id(self) -> str:
        """Whose memory this is."""
        return self._face.agent_id

    @property
    def session_id(self) -> str:
        """The session that steps and episodes belong to now, "" before the first call of a new one."""
        return self._face.session_id

    @property
    def redis_manager(self) -> Manager:
        """Tells whether the server is there: `redis_manager.available`."""
        return Manager(self._engine.status)

    def close(self, timeout: float | None = None) -> None:
        """Let pending writes go out for at most `timeout` seconds (`close_timeout`); the rest stays journalled."""
        self._face.leave()
        if not self.__dict__.get("_closed"):
            self._engine.agent_left()
        super().close(timeout)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._engine.place})"
