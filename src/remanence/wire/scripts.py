"""Lua scripts on a server: run by digest, sent whole where the server does not know them."""

import hashlib
from typing import Any

from remanence.wire.redis import Link
from remanence.wire.refusals import Refusal, refused
from remanence.wire.texts import text_of

Words = list[str | bytes]


class Script:
    """A Lua script by its digest, sent whole only where the server does not know it."""

    def __init__(self, name: str) -> None:
        self.text = text_of(f"lua/{name}")
        self.digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def words(self, *arguments: str | bytes) -> Words:
        """The command that runs it with `arguments`: number of keys, keys, values."""
        return ["EVALSHA", self.digest, *arguments]

    async def call(self, link: Link, words: Words, deadline: float) -> Any:
        """Run it; its reply."""
        link.post([words], deadline)
        return await self.reply((await link.answer(1, deadline))[0], link, words, deadline)

    async def reply(self, reply: Any, link: Link, words: Words, deadline: float) -> Any:
        """What the server answered, once it has the script. Raises what an error means."""
        if isinstance(reply, Refusal) and reply.word == "NOSCRIPT":
            reply = (await link.exchange([["EVAL", self.text, *words[2:]]], deadline))[0]
        if isinstance(reply, Refusal):
            raise refused(reply)
        return reply
