"""Every method of every class of shared state does what it promises, on every backend."""

import asyncio
import inspect
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from remanence import MISSING, AsyncConversationMemory, AsyncMemory, ConversationMemory, Memory
from remanence.errors import InvalidArgument, Rejected
from remanence.model import Reading, Receipt
from remanence.testing.places import Place
from remanence.testing.servers import available_servers
from remanence.testing.simple import doubled

ABOUT_A_MINUTE = pytest.approx(45, abs=15)
A_MINUTE = timedelta(minutes=1)


METHODS: list[tuple[Any, ...]] = [
    # method, arguments, named ones, what it returns or raises
    ("get", ("n",), {}, AttributeError),
    ("get", ("n", None), {}, None),
    ("get", ("n", 7), {}, 7),
    ("read", ("n",), {}, AttributeError),
    ("ttl", ("n",), {}, AttributeError),
    ("delete", ("n",), {}, AttributeError),
    ("update", ("n", doubled), {}, AttributeError),
    ("compare_and_set", ("n", None, 1), {}, False),
    ("increment", ("n",), {"path": ("a",)}, Rejected),
    ("keys", (), {}, []),
    ("set", ("n", None), {}, "applied"),
    ("get", ("n", 7), {}, None),
    ("increment", ("n",), {}, Rejected),
    ("compare_and_set", ("n", MISSING, 1), {}, False),
    ("compare_and_set", ("n", 0, 1), {}, False),
    ("get", ("n",), {}, None),
    ("compare_and_set", ("n", None, 1), {}, True),
    ("read", ("n",), {}, 1),
    ("increment", ("n",), {}, 2),
    ("increment", ("n", 1.5), {}, 3.5),
    ("increment", ("n", -4), {}, -0.5),
    ("increment", ("fresh", 10**30), {}, 10**30),
    ("update", ("n", doubled), {}, -1.0),
    ("update", ("new", doubled, 2), {}, 4),
    ("update", ("new", doubled, 2), {}, 8),
    ("keys", (), {}, ["fresh", "n", "new"]),
    ("keys", ("ne",), {}, ["new"]),
    ("keys", (5,), {}, InvalidArgument),
    ("ttl", ("n",), {}, None),
    ("expire", ("n", A_MINUTE), {}, None),
    ("ttl", ("n",), {}, ABOUT_A_MINUTE),
    ("increment", ("n",), {}, 0.0),
    ("update", ("n", doubled), {}, 0.0),
    ("ttl", ("n",), {}, ABOUT_A_MINUTE),  # neither changes how long it lives
    ("set", ("n", [1, {"a": 1}]), {}, "applied"),
    ("ttl", ("n",), {}, None),  # while a new value is for ever
    ("increment", ("n", 4), {"path": (1, "a")}, 5),
    ("increment", ("n", 4), {"path": (5,)}, Rejected),
    ("compare_and_set", ("n", [1, {"a": 1}], 0), {}, False),
    ("compare_and_set", ("n", [1, {"a": 5}], "x"), {"ttl": 60}, True),
    ("ttl", ("n",), {}, ABOUT_A_MINUTE),
    ("expire", ("n", None), {}, None),
    ("ttl", ("n",), {}, None),
    ("set", ("n", "x"), {"ttl": 60.0}, "applied"),
    ("ttl", ("n",), {}, ABOUT_A_MINUTE),
    ("sync", ("n",), {}, None),
    ("contains", ("n",), {}, True),
    ("delete", ("n",), {}, None),
    ("contains", ("n",), {}, False),
    ("get", ("n",), {}, AttributeError),
    ("compare_and_set", ("n", MISSING, None), {}, True),
    ("get", ("n", 7), {}, None),
]

CLASSES: dict[str, Callable[..., Any]] = {
    "Memory": Memory,
    "ConversationMemory": lambda **options: ConversationMemory("talk", **options),
    "AsyncMemory": AsyncMemory,
    "AsyncConversationMemory": lambda **options: AsyncConversationMemory("talk", **options),
}


@pytest.mark.parametrize("name", CLASSES)
def test_every_method_does_what_it_promises(place: Place, name: str):
    with asyncio.Runner() as loop:

        def outcome(made: Any) -> Any:
            made = loop.run(made) if inspect.isawaitable(made) else made
            if isinstance(made, list):
                return sorted(made)
            return made.value if isinstance(made, Reading) else made.state if isinstance(made, Receipt) else made

        made = CLASSES[name](**place.options)
        try:
            for method, arguments, named, expected in METHODS:
                step = f"{method}{arguments} {named}"
                if method == "contains" and isinstance(made, Memory):
                    assert (arguments[0] in made) is expected, step
                elif inspect.isclass(expected):
                    with pytest.raises(expected):
                        outcome(getattr(made, method)(*arguments, **named))
                else:
                    found = outcome(getattr(made, method)(*arguments, **named))
                    assert found == expected and (expected is None) == (found is None), step
        finally:
            outcome(made.close())


@pytest.mark.parametrize("place", ["sqlite", *available_servers()], indirect=True)
def test_blocking_and_async_memories_share_one_store(place: Place):
    async def others() -> Any:
        async with AsyncMemory(**place.options) as memory, AsyncConversationMemory("c", **place.options) as talk:
            await memory.edit("log").append("async")
            counts = await asyncio.gather(*(memory.increment("n") for _ in range(20)))
            won = await asyncio.gather(*(memory.compare_and_set("leader", MISSING, i) for i in range(5)))
            return sorted(counts), won, await memory.keys(), await talk.get("mine")

    with Memory(**place.options) as memory, ConversationMemory("c", **place.options) as talk:
        memory.log, memory.n, talk.mine = ["blocking"], 0, 1
        counts, won, names, mine = asyncio.run(others())
        assert (counts, sorted(names), mine) == (list(range(1, 21)), ["leader", "log", "n"], 1)
        assert won.count(True) == 1 and memory.leader == won.index(True)
        assert memory.log == ["blocking", "async"] and memory.n == 20
