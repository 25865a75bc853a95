"""The documented uses of `RedisWorkingMemoryManager` itself: storing, settings, errors, and looking after it."""

import asyncio
import inspect
import os
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from remanence import RedisWorkingMemoryManager
from remanence.testing.servers import Server

Play = Callable[[str], dict[str, Any]]

SIMPLE = """
import os
memory_manager = RedisWorkingMemoryManager(
    storage_url=os.getenv("REDIS_URL", "redis://localhost:6379/1")
)
memory_data = [IWorkingMemory(working_memory="User's name is Alice")]
memory_input = IMemoryInput(
    conversation_id="conv_123",
    memory_type=ConversationMemoryType.WORKING_MEMORY,
    data=memory_data
)
key = memory_manager.store(memory_input)
print(f"Stored memory with key: {key}")
retrieve_input = IMemoryInput(
    conversation_id="conv_123",
    memory_type=ConversationMemoryType.WORKING_MEMORY
)
memories = memory_manager.retrieve(retrieve_input)
print(f"Retrieved: {memories[0].working_memory}")
"""


def test_simple_example(play: Play, client: "redis.Redis", capsys: pytest.CaptureFixture[str]):
    play(SIMPLE)
    told = capsys.readouterr().out
    assert told == "Stored memory with key: memory:WORKING_MEMORY:conv_123\nRetrieved: User's name is Alice\n"
    assert client.keys("memory:*") == ["memory:WORKING_MEMORY:conv_123"]
    assert 43190 < client.ttl("memory:WORKING_MEMORY:conv_123") <= 43200
    stored = str(client.get("memory:WORKING_MEMORY:conv_123"))
    assert '"data":{"working_memory":"User\'s name is Alice"}' in stored


def test_connection_options(play: Play, own: Server):
    explicit = play("""
        memory_manager = RedisWorkingMemoryManager(
            storage_url="redis://localhost:6379/1"
        )
        """)["memory_manager"]
    from_environment = play("memory_manager = RedisWorkingMemoryManager()")["memory_manager"]
    assert explicit.engine.place == from_environment.engine.place == f"127.0.0.1:{own.port}/1"
    longer = play("""
        memory_manager = RedisWorkingMemoryManager(
            storage_url="redis://localhost:6379/1",
            ttl=86400
        )
        """)["memory_manager"]
    assert longer.ttl == 86400


@pytest.mark.parametrize(("environment", "seconds"), [("production", 604800), ("development", 3600)])
def test_ttl_configuration(
    play: Play, client: "redis.Redis", monkeypatch: pytest.MonkeyPatch, environment: str, seconds: int
):
    monkeypatch.setenv("ENVIRONMENT", environment)
    play(SIMPLE)
    for ttl in (3600, 86400, 604800):
        manager = play(f"memory_manager = RedisWorkingMemoryManager(ttl={ttl})")["memory_manager"]
        assert manager.ttl == ttl
    play("""
        if os.getenv("ENVIRONMENT") == "production":
            ttl = 86400 * 7
        else:
            ttl = 3600
        memory_manager = RedisWorkingMemoryManager(ttl=ttl)
        key = memory_manager.store(memory_input)
        """)
    assert seconds - 5 < client.ttl("memory:WORKING_MEMORY:conv_123") <= seconds


def test_crud_operations(play: Play, client: "redis.Redis", capsys: pytest.CaptureFixture[str]):
    play(SIMPLE)
    play("""
        memory_input = IMemoryInput(
            conversation_id="conv_123",
            memory_type=ConversationMemoryType.WORKING_MEMORY,
            data=[IWorkingMemory(working_memory="User prefers email")],
            metadata={"source": "user_settings", "timestamp": "2024-01-01"}
        )
        key = memory_manager.store(memory_input)
        """)
    capsys.readouterr()
    retrieve = """
        retrieve_input = IMemoryInput(
            conversation_id="conv_123",
            memory_type=ConversationMemoryType.WORKING_MEMORY
        )
        memories = memory_manager.retrieve(retrieve_input)
        if memories:
            print(f"Found {len(memories)} memories")
            for memory in memories:
                print(f"Memory: {memory.working_memory}")
        else:
            print("No memories found")
        """
    play(retrieve)
    assert capsys.readouterr().out == "Found 1 memories\nMemory: User prefers email\n"
    play("""
        updated_data = [IWorkingMemory(
            working_memory="User prefers SMS (updated)"
        )]
        update_input = IMemoryInput(
            conversation_id="conv_123",
            memory_type=ConversationMemoryType.WORKING_MEMORY,
            data=updated_data,
            metadata={"updated_at": "2024-01-02"}
        )
        memory_manager.update(update_input)
        """)
    play(retrieve)
    assert capsys.readouterr().out == "Found 1 memories\nMemory: User prefers SMS (updated)\n"
    assert '"metadata":{"updated_at":"2024-01-02"}' in str(client.get("memory:WORKING_MEMORY:conv_123"))
    play("""
        delete_input = IMemoryInput(
            conversation_id="conv_123",
            memory_type=ConversationMemoryType.WORKING_MEMORY
        )
        memory_manager.delete(delete_input)
        """)
    play(retrieve)
    assert capsys.readouterr().out == "No memories found\n"
    assert client.keys("memory:*") == []


def test_connection_pooling(play: Play, client: "redis.Redis"):
    names = play("""
        from redis import ConnectionPool, Redis
        pool = ConnectionPool.from_url(
            "redis://localhost:6379/1",
            max_connections=50,
            decode_responses=False
        )
        redis_client = Redis(connection_pool=pool)
        class PooledRedisMemoryManager(RedisWorkingMemoryManager):
            def __init__(self, redis_client, **kwargs):
                self.redis_client = redis_client
                self.prefix = "memory"
                self.ttl = kwargs.get('ttl', 60 * 60 * 12)
        memory_manager = PooledRedisMemoryManager(redis_client)
        """)
    manager = names["memory_manager"]
    key = manager.store({"conversation_id": "pooled", "working_memory": "x"})
    assert 43190 < client.ttl(key) <= 43200
    assert names["redis_client"].get(key), "the pool is the user's, and works on"
    names["pool"].disconnect()


def test_error_handling(play: Play, own: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    play(SIMPLE)
    names = play('''
        import redis
        class RobustMemoryManager:
            """Wrapper with fallback and retry logic."""
            def __init__(self, primary_url: str, max_retries: int = 3):
                self.memory_manager = RedisWorkingMemoryManager(storage_url=primary_url)
                self.max_retries = max_retries
            def store_with_retry(self, memory_input: IMemoryInput) -> str:
                """Store with automatic retry on failure."""
                for attempt in range(self.max_retries):
                    try:
                        return self.memory_manager.store(memory_input)
                    except redis.ConnectionError as e:
                        if attempt == self.max_retries - 1:
                            raise
                        import time
                        time.sleep(2 ** attempt)
                raise Exception("Max retries exceeded")
            def retrieve_safe(self, memory_input: IMemoryInput) -> list:
                """Retrieve with fallback to empty list on error."""
                try:
                    return self.memory_manager.retrieve(memory_input)
                except redis.ConnectionError:
                    print("Redis connection error, returning empty memories")
                    return []
        ''')
    robust = names["RobustMemoryManager"](os.environ["REDIS_URL"])
    assert robust.store_with_retry(names["memory_input"]) == "memory:WORKING_MEMORY:conv_123"
    assert len(robust.retrieve_safe(names["retrieve_input"])) == 1
    own.kill()
    assert robust.store_with_retry(names["memory_input"]), "journalled: there is nothing to retry"
    capsys.readouterr()
    unknown = names["IMemoryInput"]("unknown", "WORKING_MEMORY")
    assert robust.retrieve_safe(unknown) == []
    assert capsys.readouterr().out == "Redis connection error, returning empty memories\n"
    monkeypatch.setenv("REMANENCE_FALLBACK", "false")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    strict = names["RobustMemoryManager"](os.environ["REDIS_URL"])
    with pytest.raises(redis.ConnectionError):
        strict.store_with_retry(names["memory_input"])


def test_monitor_memory_usage(play: Play, capsys: pytest.CaptureFixture[str]):
    play(SIMPLE)
    capsys.readouterr()
    names = play('''
        import redis
        def get_memory_stats(redis_url: str) -> dict:
            """Get Redis memory statistics."""
            client = redis.from_url(redis_url)
            info = client.info('memory')
            stats = {
                "used_memory": info.get("used_memory_human"),
                "used_memory_peak": info.get("used_memory_peak_human"),
                "total_keys": client.dbsize()
            }
            return stats
        stats = get_memory_stats("redis://localhost:6379/1")
        print(f"Memory usage: {stats['used_memory']}")
        print(f"Total keys: {stats['total_keys']}")
        ''')
    assert "Memory usage: " in capsys.readouterr().out
    ours = names["memory_manager"].statistics()
    assert ours.keys() == names["stats"].keys()
    assert ours["total_keys"] == names["stats"]["total_keys"] >= 1


def test_cleanup_utilities(play: Play, client: "redis.Redis", capsys: pytest.CaptureFixture[str]):
    play(SIMPLE)
    names = play('''
        import redis
        def cleanup_old_conversations(redis_url: str, pattern: str = "memory:*"):
            """Clean up all memories matching pattern."""
            client = redis.from_url(redis_url)
            keys = client.keys(pattern)
            if keys:
                client.delete(*keys)
                print(f"Deleted {len(keys)} memory entries")
            else:
                print("No memories found to delete")
        cleanup_old_conversations("redis://localhost:6379/1")
        cleanup_old_conversations("redis://localhost:6379/1", "memory:*:conv_123")
        ''')
    told = capsys.readouterr().out.splitlines()[-2:]
    assert told == ["Deleted 1 memory entries", "No memories found to delete"]
    manager = names["memory_manager"]
    assert manager.retrieve(names["retrieve_input"]) == [], "what others delete is gone"
    manager.store(names["memory_input"])
    assert (manager.cleanup("memory:*:conv_123"), manager.cleanup("memory:*")) == (1, 0)
    assert client.keys("memory:*") == []


def test_batch_operations(play: Play, client: "redis.Redis"):
    play(SIMPLE)
    play('''
        def batch_store_memories(
            memory_manager: RedisWorkingMemoryManager,
            conversation_memories: dict
        ):
            """Store multiple conversation memories efficiently."""
            for conversation_id, memory_text in conversation_memories.items():
                memory_input = IMemoryInput(
                    conversation_id=conversation_id,
                    memory_type=ConversationMemoryType.WORKING_MEMORY,
                    data=[IWorkingMemory(working_memory=memory_text)]
                )
                memory_manager.store(memory_input)
        batch_store_memories(memory_manager, {
            "conv_1": "Alice prefers email",
            "conv_2": "Bob likes Python",
            "conv_3": "Carol uses dark mode"
        })
        ''')
    assert sorted(client.keys("memory:*:conv_?")) == [f"memory:WORKING_MEMORY:conv_{n}" for n in (1, 2, 3)]


def test_connection_reuse(play: Play):
    names = play('''
        class MemoryService:
            """Singleton memory service for connection reuse."""
            _instance = None
            _memory_manager = None
            @classmethod
            def get_manager(cls):
                if cls._memory_manager is None:
                    cls._memory_manager = RedisWorkingMemoryManager()
                return cls._memory_manager
        manager = MemoryService.get_manager()
        ''')
    assert names["MemoryService"].get_manager() is names["manager"]
    assert names["manager"].engine is play("other = RedisWorkingMemoryManager()")["other"].engine


def test_unit_testing(play: Play, client: "redis.Redis"):
    names = play('''
        def test_store_memory(mock_redis):
            """Test memory storage."""
            manager = RedisWorkingMemoryManager()
            memory_input = IMemoryInput(
                conversation_id="test_conv",
                memory_type=ConversationMemoryType.WORKING_MEMORY,
                data=[IWorkingMemory(working_memory="test")]
            )
            key = manager.store(memory_input)
            assert mock_redis.get(key)
        ''')
    names["test_store_memory"](client)


def test_integration_testing(play: Play, own: Server):
    names = play('''
        async def test_redis_persistence():
            """Test actual Redis persistence."""
            manager = RedisWorkingMemoryManager("redis://localhost:6379/15")
            try:
                memory_input = IMemoryInput(
                    conversation_id="test_conv",
                    memory_type=ConversationMemoryType.WORKING_MEMORY,
                    data=[IWorkingMemory(working_memory="test data")]
                )
                key = manager.store(memory_input)
                retrieve_input = IMemoryInput(
                    conversation_id="test_conv",
                    memory_type=ConversationMemoryType.WORKING_MEMORY
                )
                memories = manager.retrieve(retrieve_input)
                assert len(memories) == 1
                assert memories[0].working_memory == "test data"
            finally:
                manager.delete(retrieve_input)
        ''')
    assert inspect.iscoroutinefunction(names["test_redis_persistence"])
    asyncio.run(names["test_redis_persistence"]())
    with own.client(db=15) as client:
        assert client.keys("memory:*") == []


def test_documented_addresses(own: Server, monkeypatch: pytest.MonkeyPatch):
    """The forms of REDIS_URL that the document gives."""
    for url, place in (
        ("redis://username:password@redis-host:6379/3", "redis-host:6379/3"),
        ("redis://your-elasticache-endpoint:6379/0", "your-elasticache-endpoint:6379/0"),
        ("redis://localhost:6379/1", "localhost:6379/1"),
        ("redis://:password@localhost:6379/1", "localhost:6379/1"),
        ("rediss://username:password@redis-host:6380/1", "redis-host:6380/1"),
    ):
        monkeypatch.setenv("REDIS_URL", url)
        manager = RedisWorkingMemoryManager()
        assert repr(manager) == f"RedisWorkingMemoryManager({place})"
