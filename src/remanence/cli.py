"""The `remanence` command: arguments and dispatch. Each verb is a module, imported when it is called.

A module of `remanence.commands` offers `configure(parser)`, which adds the verb's own arguments, and
`run(call, output)`, which does it and returns the exit code. To add a verb, add it to VERBS.

Exit codes: 0 fine; 1 what was checked has a problem; 2 the call is wrong; 3 the server is away;
130 ended by Ctrl-C. Errors are one line on stderr, with --json an object.
"""

import argparse
import contextlib
import json
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final, NamedTuple, NoReturn

import remanence
from remanence.errors import RemanenceError, Unavailable, UsageError

PROBLEM: Final = 1
USAGE: Final = 2
_DASHED_ID: Final = re.compile(r"-[A-Za-z0-9_-]{20}[AQgw]")
"""An operation id, 128 bits in base64url, whose first character is a dash. No option is spelled so."""
_ID_OPTION: Final = "--receipt"
"""The one option whose value is such an id."""
AWAY: Final = 3
INTERRUPTED: Final = 130
NOBODY_READS: Final = 141
"""What a shell shows for a program that SIGPIPE ended, such as `remanence export - | head -1`."""


class Verb(NamedTuple):
    """A verb, what `--help` says of it, and the module that does it."""

    name: str
    meaning: str
    module: str


VERBS: Final = (
    Verb("demo", "see it remember, survive kill -9 and outlive its server, in 20 seconds", "demo"),
    Verb("doctor", "check settings, folder, journals and server, with advice", "doctor"),
    Verb("journal", "what waits to be sent, and dead letters: show, retry, discard, export", "journal"),
    Verb("conflicts", "writes that had no effect, because another came first", "conflicts"),
    Verb("tail", "changes as they happen, one line each", "tail"),
    Verb("stats", "what is stored where, and what waits to be sent", "stats"),
    Verb("search", "find what agents remember, by words and by meaning", "search"),
    Verb("memories", "what agents remember: list, show, delete, load, embed", "memories"),
    Verb("audit", "what is wrong with what agents remember: duplicates, secrets, loops", "audit"),
    Verb("consolidate", "merge near-duplicate episodes, reversibly, and learn patterns", "consolidate"),
    Verb("export", "write everything that is stored to a JSONL file", "exporting"),
    Verb("import", "store what an export holds", "importing"),
    Verb("restore", "store again what a server lost and mirrors on this machine still have", "restore"),
    Verb("forget", "erase keys, a conversation or a namespace for good, everywhere", "forget"),
    Verb("copy", "copy a namespace to another place while its agents go on, and verify it", "copy"),
    Verb("replicate", "keep a namespace in another place like this one, for ever", "replicate"),
    Verb("model", "fetch, list and remove the weights of better embedders", "model"),
    Verb("bench", "measure what it costs, against plain redis-py on the same server", "bench"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. `argv` defaults to the program's arguments."""
    words = guarded(sys.argv[1:] if argv is None else argv)
    call = _parser("--json" in words).parse_args(words)
    try:
        code = _run(call)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _forget_stdout()
        return NOBODY_READS
    except RemanenceError as error:
        code = USAGE if isinstance(error, UsageError) else AWAY if isinstance(error, Unavailable) else PROBLEM
        _complain(str(error), type(error).__name__, code, as_json=call.json)
        return code
    except OSError as error:  # the disk's or a file's, such as a full one under an export
        message = ": ".join(filter(None, (error.filename, (error.strerror or str(error)).lower())))
        _complain(message, type(error).__name__, PROBLEM, as_json=call.json)
        return PROBLEM


def _run(call: argparse.Namespace) -> int:
    from remanence.commands.output import Output

    module: Any = import_module(f"remanence.commands.{call.module}")
    code: int = module.run(call, Output(as_json=call.json, version=remanence.__version__))
    return code


def _complain(message: str, kind: str, code: int, *, as_json: bool) -> None:
    if as_json:
        line = json.dumps({"error": kind, "message": message, "exit": code})
    else:
        from remanence.commands.output import visible

        line = f"remanence: {visible(message)}"
    with contextlib.suppress(OSError):  # nobody listens: the exit code still tells
        print(line, file=sys.stderr, flush=True)


def _forget_stdout() -> None:
    """Whoever read our output has gone: let the interpreter's last flush go nowhere, and quietly."""
    with contextlib.suppress(OSError, ValueError):  # no real file behind it: nothing will be flushed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# --- arguments ----------------------------------------------------------------------------------


def guarded(words: Sequence[str]) -> list[str]:
    """The words with operation ids that begin with a dash behind `--`, for else they would be taken for options."""
    if "--" in words:
        return list(words)
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] == _ID_OPTION:
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    words = joined
    ids = [word for word in words if _DASHED_ID.fullmatch(word)]
    return [*(word for word in words if word not in ids), "--", *ids] if ids else list(words)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors keep to the promise, and which learns a verb's arguments when it is called."""

    def __init__(self, *, as_json: bool = False, module: str = "", **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)
        self._as_json = as_json
        self._module = module

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        module, self._module = self._module, ""
        if module:
            _add_common(self, argparse.SUPPRESS)  # what was said before the verb must not be unsaid
            import_module(f"remanence.commands.{module}").configure(self)
            return self.parse_known_intermixed_args(args, namespace)  # else words behind an option are lost
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        _complain(f"{message} (see {self.prog} --help)", "UsageError", USAGE, as_json=self._as_json)
        raise SystemExit(USAGE)


def _parser(as_json: bool) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="remanence",
        description="The memory of AI agents that outlives the outage.",
        epilog="Without --url, REDIS_URL or REDIS_HOST, memories live in one local SQLite file.",
        as_json=as_json,
    )
    parser.add_argument("--version", action="version", version=f"remanence {remanence.__version__}")
    _add_common(parser, None)
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for verb in VERBS:
        options: dict[str, Any] = {"as_json": as_json, "module": verb.module}
        sentence = f"{verb.meaning[0].upper()}{verb.meaning[1:]}."
        one = verbs.add_parser(verb.name, help=verb.meaning, description=sentence, **options)
        one.set_defaults(module=verb.module)
    return parser


def _add_common(parser: argparse.ArgumentParser, default: str | None) -> None:
    """The options of every verb, before or after it."""
    group = parser.add_argument_group("where memories live")
    group.add_argument("--url", metavar="URL", default=default, help="redis://, rediss:// or unix:// (REDIS_URL)")
    group.add_argument("--path", metavar="DIR", default=default, help="folder of local files (REMANENCE_PATH)")
    group.add_argument("--namespace", metavar="NAME", default=default, help="tenant (REMANENCE_NAMESPACE)")
    group.add_argument("--backend", choices=("redis", "sqlite", "memory"), default=default, help="(MEMORY_BACKEND)")
    parser.add_argument("--json", action="store_true", default=default or False, help="answer, and complain, in JSON")
