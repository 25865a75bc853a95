"""`Memory` and `ConversationMemory`: shared state as attributes."""

from collections.abc import Callable, Iterator
from typing import Any, Unpack

from remanence.engine import shared_blocking
from remanence.errors import InvalidKey, Rejected
from remanence.faces.bound import is_same, plain
from remanence.faces.editor import Editor
from remanence.faces.live import wrap
from remanence.faces.merging import Merge
from remanence.faces.moves import Moves
from remanence.faces.state import State, named
from remanence.faces.values import value_of
from remanence.options import Options
from remanence.runtime.blocking import run
from remanence.settings import Settings
from remanence.stores.edits import EditRejected
from remanence.sync.opening import Opened, blocking
from remanence.sync.watching import watching


class Memory(Opened[State]):
    """Shared state as attributes: what one process sets, every other sees, through any outage.

    >>> m = Memory(backend="memory")
    >>> m.settings = {"theme": "light"}
    >>> m.settings["theme"] = "dark"
    >>> m.settings
    {'theme': 'dark'}
    >>> m.increment("visits")
    1
    >>> m.close()

    A missing attribute raises AttributeError; a value JSON cannot hold raises TypeError naming the path.
    Names that begin with `_` stay local; names of methods are stored with `set`.
    """

    def __init__(
        self,
        redis_hostname: str | None = None,
        redis_port: int | None = None,
        redis_prefix: str | None = None,
        **options: Unpack[Options],
    ) -> None:
        """Name a server (argument, REDIS_URL, REDIS_HOST) and values live there; name none and they live
        in one SQLite file. `redis_prefix` defaults to REDIS_PREFIX, then `memory:`. Nothing is read here.
        """
        self._setup(redis_hostname, redis_port, redis_prefix, None, options)

    def _setup(
        self, host: str | None, port: int | None, prefix: str | None, conversation: str | None, options: Any
    ) -> None:
        settings = Settings.at(host, port, redis_prefix=prefix, **options)
        engine = shared_blocking(settings)
        face = State(lambda: engine.gateway, settings, conversation)
        self.__dict__.update(_engine=engine, _face=face, _roots={})

    read = blocking(State.read)
    set = blocking(State.set)
    delete = blocking(State.delete)
    sync = blocking(State.sync)
    increment = blocking(State.increment)
    compare_and_set = blocking(State.compare_and_set)
    update = blocking(State.update)
    history = blocking(State.history)
    rollback = blocking(State.rollback)
    forget = blocking(State.forget)
    ttl = blocking(State.ttl)
    expire = blocking(State.expire)
    keys = blocking(State.keys)
    watch = watching(State.watch)
    on_change = watching(State.on_change)

    def on_conflict(self, function: Merge) -> Callable[[], None]:
        """Have `function` called with each write of this memory that lost after its call returned: with the name, the
        value that lost and the one that won (`remanence.MISSING` where that was a delete). What it returns is stored
        instead, on the version that won; returned equal to the latter, nothing is. Returns what ends it.

        Such a write was journalled while the server was away and found, when it was sent, that somebody else had
        written meanwhile. What its caller was told of is not among them, nor anything where there is no journal.
        Of several such writes to a name that are known by then only the last is asked about.

        It runs in the background and in this process alone, also for what ended processes left. It may be slow, be
        called again because the value moved on, or raise (`MergeFailed`): then the conflict stays in the log, where
        it is in any case until the merge is written. Of several functions the first given is called. Raises
        `InvalidArgument` for what cannot be called.
        """
        return self._engine.merges.add(self._face._merger(function))

    def key_of(self, name: str) -> str:
        """The key of a name's value, as `redis-cli` sees it."""
        return self._face.key_of(name)

    def edit(self, name: str, *path: str | int) -> "BlockingEditor":
        """The list or dict at `path` inside the value, with the methods that change it."""
        return BlockingEditor(self._face.edit(name, *path))

    def get(self, name: str, *default: Any) -> Any:
        """The value, live where it is a list or a dict: changing it changes what is shared."""
        record = run(self._face._found(name, wanted=not default))
        if record is None:
            return default[0]
        root = self.__dict__["_roots"].get(name)
        if root is None or root.body is not record.body:  # else it is decoded already: nobody changes that in place
            value = value_of(record)
            if not isinstance(value, (dict, list)):
                return value
            root = self._root(name)
            root.show(value, record.body)
        return wrap(root, (), root.value)

    def _root(self, name: str) -> "SharedRoot":
        roots: dict[str, SharedRoot] = self.__dict__["_roots"]
        root = roots.get(name)
        if root is None:
            root = roots[name] = SharedRoot(self._face, name)
        return root

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no local attribute {name!r}")
        return self.get(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            self.__dict__[name] = value
            return
        if hasattr(type(self), name):
            raise InvalidKey(f"{name!r} is a method of {type(self).__name__}: store it with set({name!r}, …)")
        root = self.__dict__["_roots"].get(name)
        if root is not None and is_same(value, root, ()):
            return  # `m.log += [x]` has changed what is shared already
        self.set(name, plain(value))

    def __delattr__(self, name: str) -> None:
        if name.startswith("_"):
            object.__delattr__(self, name)
            return
        self.delete(name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and run(self._face.contains(name))

    def __iter__(self) -> Iterator[str]:
        names = self._face.names()
        while True:
            try:
                yield run(names.__anext__())  # type: ignore[arg-type]
            except StopAsyncIteration:
                return

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._engine.place})"


class ConversationMemory(Memory):
    """The shared state of one conversation: names live at `memory:{conversation_id}:{name}`."""

    def __init__(
        self,
        conversation_id: str,
        redis_hostname: str | None = None,
        redis_port: int | None = None,
        redis_prefix: str | None = None,
        **options: Unpack[Options],
    ) -> None:
        """No other conversation's id, however it is spelled, reaches this one's names."""
        self._setup(redis_hostname, redis_port, redis_prefix, named(conversation_id), options)


class SharedRoot:
    """The stored value behind live containers, and its last known content. Per memory and name."""

    def __init__(self, face: State, name: str) -> None:
        self._face = face
        self._name = name
        self.version = 0
        self.value: Any = None
        self.body: bytes | None = None
        self.moves = Moves()

    def show(self, value: Any, body: bytes | None = None) -> None:
        """The content is now `value`, decoded from `body`."""
        self.value, self.body = value, body
        self.version += 1

    def change(self, path: tuple[str | int, ...], verb: str, *args: Any) -> Any:
        """Send one edit and show what the value became."""
        try:
            result = run(self._face.change(self._name, path, verb, *args))
        except Rejected as error:
            raise EditRejected(error.reason) from error
        self.show(run(self._face.get(self._name, None)))
        return result


class BlockingEditor:
    """See `remanence.faces.editor.Editor`."""

    def __init__(self, editor: Editor) -> None:
        self._face = editor

    append = blocking(Editor.append)
    extend = blocking(Editor.extend)
    insert = blocking(Editor.insert)
    remove = blocking(Editor.remove)
    pop = blocking(Editor.pop)
    set = blocking(Editor.set)
    delete = blocking(Editor.delete)
    setdefault = blocking(Editor.setdefault)
    update = blocking(Editor.update)
    clear = blocking(Editor.clear)
    sort = blocking(Editor.sort)
    reverse = blocking(Editor.reverse)
