"""Changing the inside of a shared value, awaited: the methods of list and dict at one place of it."""

from collections.abc import Awaitable, Callable
from typing import Any

from remanence.model import JSON


class Editor:
    """The list or dict at one place of a value. Each method is the one of list or dict, awaited.

    Raises `Rejected`, with the reason, where it does not fit what the value is by then.
    """

    def __init__(self, change: Callable[..., Awaitable[Any]], name: str, path: tuple[str | int, ...]) -> None:
        """`change`: that of the `State` which `name` is a value of."""
        self._change = change
        self._name = name
        self._path = path

    async def _do(self, verb: str, *args: Any) -> Any:
        return await self._change(self._name, self._path, verb, *args)

    async def append(self, item: JSON) -> None:
        """Add at the end of the list."""
        await self._do("append", item)

    async def extend(self, items: list[JSON]) -> None:
        """Add all at the end of the list."""
        await self._do("extend", list(items))

    async def insert(self, index: int, item: JSON) -> None:
        """Insert before `index`."""
        await self._do("insert", index, item)

    async def remove(self, item: JSON) -> None:
        """Remove the first equal item."""
        await self._do("remove", item)

    async def pop(self, key: int | str = -1, *default: JSON) -> JSON:
        """Remove and return the item at a list's index, or a dict's member."""
        if isinstance(key, str):
            return await self._do("pop_member", key, *default)
        return await self._do("pop", key)

    async def set(self, key: int | str, value: JSON) -> None:
        """`container[key] = value`."""
        await self._do("setmember" if isinstance(key, str) else "setitem", key, value)

    async def delete(self, key: int | str) -> None:
        """`del container[key]`."""
        await self._do("delmember" if isinstance(key, str) else "delitem", key)

    async def setdefault(self, key: str, value: JSON = None) -> JSON:
        """The member, stored as `value` where it is missing."""
        return await self._do("setdefault", key, value)

    async def update(self, members: dict[str, JSON]) -> None:
        """Set several members."""
        await self._do("update", members)

    async def clear(self) -> None:
        """Empty the container."""
        await self._do("clear")

    async def sort(self, *, reverse: bool = False) -> None:
        """Sort the list."""
        await self._do("sort", reverse)

    async def reverse(self) -> None:
        """Turn the list round."""
        await self._do("reverse")
