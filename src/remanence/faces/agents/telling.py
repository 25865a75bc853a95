"""How steps and memories are told to a model: one line each, in which no text passes for a mark of ours. Pure."""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple

import msgspec

from remanence.faces.agents.tokens import Counter, checked, estimate
from remanence.faces.agents.types import (
    EpisodicMemory,
    SemanticMemory,
    SessionMessage,
    SkillMemory,
    WorkingMemoryStep,
)

BLOCK: Final = "recalled_memories"
CUT: Final = " […]"
"""Stands where the end of a line was left out. No line has it of its own text."""
LONGEST: Final = 20_000
"""Characters of one step or memory that a context reads."""
_LONGEST_NAME: Final = 80
_SHORT: Final = 80
_ERROR: Final = 240

_ODD: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]?"  # colours and cursor movements of a terminal
    r"|\t+|[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+"
    r"|[\x00-\x1f\x7f-\x9f]"
    r"|[\xad\u034f\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb]"
    r"|[\ufe00-\ufe0e\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"  # can carry a hidden text
    r"|[\ud800-\udfff]"
)
_JOINERS: Final = re.compile(r"(?<=[\x00-\x7f])[\u200c\u200d]+|[\u200c\u200d]+(?=[\x00-\x7f])")
"""Invisible beside these letters; elsewhere they shape letters and emoji."""
_MARKS: Final = re.compile(
    rf"[<＜﹤](?=[\W_]{{0,8}}{BLOCK.partition('_')[0]})"  # noqa: RUF001 - they look like it
    r"|<(?=[|｜]\w|/?s>|<?/?SYS>|/?(?:start|end)_of_turn)"  # noqa: RUF001 - what chat templates are made of
    r"|\[(?=/?INST\]|…\]|[\W_]{0,3}(?:episodic|semantic|skill|message|step)[\W_]{0,3}:)",
    re.IGNORECASE,
)
_DIGITS: Final = re.compile(r"\d+")

Recalled = EpisodicMemory | SemanticMemory | SkillMemory | SessionMessage


class Told(NamedTuple):
    """A line and what it tells of: a memory's id, `step:12`, or `step:3-9` for a run of steps."""

    text: str
    source: str
    failed: bool = False


def plain(text: str) -> str:
    r"""A text on one line, without what cannot be seen and without our marks.

    Breaks of lines are spelled `\n`, tabs `\t`; colours of terminals, control characters, and characters that turn
    the direction of a text or hide another one are left out. The bracket that opens one of our marks, or one of those
    that chat templates are made of, becomes a round one. Everything else stays as it is.
    """
    if not (text.isascii() and text.isprintable()):  # most are: the rest costs several times as much
        text = _JOINERS.sub("", _ODD.sub(_spelled, text))
    return _MARKS.sub("(", text).strip()


def _spelled(match: re.Match[str]) -> str:
    odd = match[0]
    if "\ud800" <= odd <= "\udfff":
        return "\ufffd"
    if odd.startswith("\t"):
        return "\\t" * len(odd)
    return "\\n" if odd.isspace() and odd != "\x1f" else ""


# --- steps ----------------------------------------------------------------------------------------


def told(step: WorkingMemoryStep) -> str:
    """A step with all that is known of it, on one line: what was done, what went wrong, what came of it, why."""
    return line_of(step).text


def compressed(steps: Sequence[WorkingMemoryStep]) -> list[str]:
    """Steps in short, oldest first: a line for each, and one for a run of steps that are alike.

    A line tells at most 80 characters of the action and of what came of it, and 240 of an error. Steps that succeeded
    are alike if their actions begin with the same word; steps that failed if action and error are the same but for
    their numbers.
    """
    return [line.text for line in folded(steps)]


def step_tokens(steps: Sequence[WorkingMemoryStep], count: Counter = estimate) -> tuple[int, int]:
    """How many tokens the steps take as they are, and compressed. No steps take none."""
    if not steps:
        return 0, 0
    counted = checked(count)
    return counted("\n".join(map(told, steps))), counted("\n".join(compressed(steps)))


def line_of(step: WorkingMemoryStep, longest: int | None = None) -> Told:
    """A step in full, or the first `longest` characters of it."""
    source = f"step:{step.step_number}"
    text = step.action if step.success else f"FAILED {step.action}"
    text += "".join(f" | {name}: {said}" for name, said in _details(step) if said)
    return _line(f"[{source}]", source, text, longest, not step.success)


def _details(step: WorkingMemoryStep) -> Iterator[tuple[str, str]]:
    yield "error", step.error or ""
    yield "saw", step.observation
    yield "because", step.reasoning
    yield "tools", ", ".join(map(_call, step.tool_calls))


def _call(call: Any) -> str:
    """A tool call: whatever an agent noted of it."""
    if isinstance(call, str):
        return call
    try:
        return msgspec.json.encode(call, enc_hook=str).decode()
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        return type(call).__name__


def folded(steps: Sequence[WorkingMemoryStep]) -> list[Told]:
    """What `compressed` tells, with the steps each line tells of."""
    return [_run(list(run)) for _, run in groupby(steps, _kind)]


def _kind(step: WorkingMemoryStep) -> tuple[str, ...]:
    if step.success:
        return (step.action.split(maxsplit=1)[0].lower() if step.action.strip() else "",)
    return "FAILED", _DIGITS.sub("0", step.action[:LONGEST]), _DIGITS.sub("0", _failure(step)[:LONGEST])


def _failure(step: WorkingMemoryStep) -> str:
    return step.error or step.observation


def _run(run: Sequence[WorkingMemoryStep]) -> Told:
    first, last = run[0], run[-1]
    action = _brief(last.action, _SHORT)
    text = f"{action} → {_brief(last.observation, _SHORT)}" if last.success else _failed(last, action)
    if len(run) == 1:
        return _line(f"[step:{last.step_number}]", f"step:{last.step_number}", text, None, not last.success)
    begun = "" if first.action == last.action else f"{_brief(first.action, _SHORT)} … "
    source = f"step:{first.step_number}-{last.step_number}"
    return _line(f"[{source}]", source, f"{len(run)} × {begun}{text}", None, not last.success)


def _failed(step: WorkingMemoryStep, action: str) -> str:
    return f"FAILED {action}: {_brief(_failure(step), _ERROR)}"


def _brief(text: str, most: int) -> str:
    text = text.strip()
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


# --- memories -------------------------------------------------------------------------------------


def memory_line(memory: Recalled, trusted: float) -> Told:
    """A memory on one line, the first `LONGEST` characters of it. One that is trusted less than `trusted` says so."""
    kind, text = _body(memory)
    mark = f"[{kind}:{plain(memory.memory_id[:_LONGEST_NAME]).replace(']', ')')}]"
    trust = 1.0 if isinstance(memory, SessionMessage) else memory.trust
    if trust < trusted:
        mark += f" (low trust, {trust:.2f})"
    return _line(mark, memory.memory_id, text, LONGEST)


def essence(memory: Recalled) -> str:
    """What a memory says, without how often and when: two with the same essence tell the same."""
    match memory:
        case SemanticMemory():
            said = (memory.pattern, memory.context)
        case SkillMemory():
            said = (memory.skill_name, memory.description)
        case EpisodicMemory():
            said = (memory.task_prompt, memory.outcome)
        case _:
            said = (memory.content, "")
    return " ".join("\n".join(part[:LONGEST] for part in said).casefold().split())


def _body(memory: Recalled) -> tuple[str, str]:
    match memory:
        case SemanticMemory():
            return "semantic", _knowledge(memory)
        case SkillMemory():
            return "skill", _skill(memory)
        case EpisodicMemory():
            return "episodic", _episode(memory)
        case _:
            return "message", f"{memory.role} at {memory.timestamp}: {memory.content}"


def _knowledge(memory: SemanticMemory) -> str:
    text = memory.pattern + (f" | where: {memory.context}" if memory.context else "")
    text += f" | confidence {memory.confidence:.2f}, validated {memory.times_validated} times"
    return text + "".join(f" | example: {example}" for example in memory.examples)


def _skill(memory: SkillMemory) -> str:
    text = f"{memory.skill_name}: {memory.description}"
    if memory.times_executed:
        text += f" | worked {memory.times_succeeded} of {memory.times_executed} times"
    for name, said in (
        ("needs", memory.preconditions),
        ("do", map(_call, memory.action_sequence)),
        ("then", memory.postconditions),
    ):
        joined = "; ".join(said)
        text += f" | {name}: {joined}" if joined else ""
    return text


def _episode(memory: EpisodicMemory) -> str:
    went = "succeeded" if memory.success else "FAILED"
    text = f"{memory.task_prompt} → {went}: {memory.outcome} | {memory.created_at:%Y-%m-%d}"
    text += "".join(f" | error: {error}" for error in memory.error_messages)
    return text + (f" | tools: {', '.join(memory.tools_used)}" if memory.tools_used else "")


def _line(mark: str, source: str, text: str, longest: int | None, failed: bool = False) -> Told:
    if longest is not None and len(text) > longest:
        return Told(f"{mark} {plain(text[:longest])}{CUT}", source, failed)
    return Told(f"{mark} {plain(text)}", source, failed)
