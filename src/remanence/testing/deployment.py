"""A deployment as its owner and the command line use it, where writes can be made to die."""

from contextlib import closing
from typing import Any

from remanence.commands.journals import folder_of, survey
from remanence.engine import BlockingEngine
from remanence.model import Append, Receipt, Write
from remanence.runtime.blocking import run
from remanence.settings import Settings
from remanence.testing.oracle import QUICK
from remanence.testing.servers import Server
from remanence.wire.keys import Keyspace

SECRET = b"what nobody may see"
"""What a dead letter holds."""


class Deployment:
    """One namespace on one server, an engine on it, and how the command line names it."""

    def __init__(self, url: str, namespace: str, server: Server) -> None:
        self.settings = Settings.build(**{**QUICK, "url": url, "namespace": namespace})
        self.words = ("--url", url, "--namespace", namespace)
        self.server = server
        self.namespace = namespace
        self.engine = BlockingEngine(self.settings)

    def write(self, *writes: Write, ack: Any = None) -> list[Receipt]:
        """Hand in writes; their receipts."""
        return run(self.engine.gateway.write(writes, ack=ack))

    def name(self, key: str) -> str:
        """The name on the server of what is stored under `key`."""
        return Keyspace(self.namespace).data(key)

    def block(self, key: str) -> None:
        """Have a stranger's hash where a list or a document would be."""
        with closing(self.server.client()) as client:
            client.hset(self.name(key), "a", "b")

    def unblock(self, key: str) -> None:
        """Take away what stands at `key`."""
        with closing(self.server.client()) as client:
            client.delete(self.name(key))

    def items(self, key: str) -> list[bytes]:
        """What a plain client finds in a list."""
        with closing(self.server.client()) as client:
            found: Any = client.lrange(self.name(key), 0, -1)
        return list(found)

    def dead_append(self, key: str = "list", item: bytes = SECRET) -> str:
        """The operation id of a dead letter: an append to what is no list."""
        self.block(key)
        (receipt,) = self.write(Append(key, (item,)), ack="store")
        assert receipt.state == "rejected"
        return receipt.op_id

    def journals(self) -> list[Any]:
        """The journals of this deployment, as `remanence journal list` sees them."""
        return survey(folder_of(self.settings))
