"""What is told to a model: what an agent did and recalls, the most useful of it, within a token budget. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from math import inf, isnan
from typing import Any, Final

from msgspec import Struct

from remanence.errors import InvalidArgument
from remanence.faces.agents.fitting import Line, Placed, Section, fitting
from remanence.faces.agents.telling import (
    LONGEST,
    Recalled,
    Told,
    compressed,
    essence,
    folded,
    line_of,
    memory_line,
    step_tokens,
    told,
)
from remanence.faces.agents.tokens import Counter, checked, estimate
from remanence.faces.agents.types import (
    EpisodicMemory,
    Found,
    MemoryType,
    SemanticMemory,
    SessionMessage,
    SkillMemory,
    WorkingMemoryStep,
)

__all__ = ["Context", "Line", "build", "compressed", "step_tokens", "told"]

_PINNED: Final = 1
_KINDS: Final = ((SemanticMemory, 2), (SkillMemory, 3), (EpisodicMemory, 4), (SessionMessage, 5))
_HEADINGS: Final = {
    1: ("Pinned:", 3),
    2: ("Knowledge:", 3),
    3: ("Skills:", 2),
    4: ("Episodes:", 2),
    5: ("Messages:", 1),
}


class Context(Struct, frozen=True):
    """What to tell a model. `str()` gives the text.

    `tokens` is what the counter says of the whole text. `left_out` names what did not fit, the most useful first;
    `repeated` the memories that are not told because another line, or the steps, tell the same.
    """

    text: str
    lines: tuple[Line, ...]
    tokens: int
    left_out: tuple[str, ...]
    repeated: tuple[str, ...]

    def __str__(self) -> str:
        return self.text


def build(
    steps: Sequence[WorkingMemoryStep],
    recalled: Mapping[MemoryType, Sequence[Found]],
    *,
    budget: int,
    count: Counter = estimate,
    detailed: int = 10,
    messages: Sequence[Found] = (),
    trusted: float = 0.5,
) -> Context:
    """The most useful of an agent's `steps` (oldest first) and of what it recalled, in at most `budget` tokens.

    The text is in the order of usefulness, so that a reader who stops early misses the least:

    1. the last `detailed` steps in full (8 parts of 20 of the budget),
    2. what was recalled, in a block that is marked as data: pinned memories (3), knowledge (3), skills (2),
       episodes (2) and messages (1), each by its score,
    3. the steps before, in short (1).

    What one of them does not need goes to the others by their parts. Where not everything fits, the newest of the
    last steps, the best of the memories and, of the earlier steps, first the failures and then the newest are told;
    a long one is shortened, with ` […]` at its end, to what is left for it. Steps are told in the order of time.
    The headings and marks are counted, and the text as a whole is, at last: it is never over the budget, whatever
    the counter answers, and empty where not even one line fits.

    Every line begins with what it tells of, such as `[semantic:0192…]`. No memory is told twice: not the same id,
    not the same words, no episode of these very steps. Memories of which `trust` is below `trusted` say so. No text
    in a step or a memory can end its line or pass for one of the marks; at most 20,000 characters of it are read.

    Scores are compared within one type only. The same input gives the same text. Raises `InvalidArgument` if the
    budget, `detailed` or `trusted` is out of range, or the counter fails.
    """
    _check(budget, detailed, trusted)
    steps = _distinct(steps)
    memories, repeated = _once([*(each for some in recalled.values() for each in some), *messages], steps)
    sections = _sections(steps, memories, detailed, trusted)
    kept, text, tokens = fitting(sections, budget, checked(count))
    return Context(text, tuple(each.line for each in sorted(kept)), tokens, _left_out(sections, kept), repeated)


def _check(budget: int, detailed: int, trusted: float) -> None:
    for name, value in (("budget", budget), ("detailed", detailed)):
        if type(value) is not int or value < 0:
            raise InvalidArgument(f"{name} is a whole number from 0 up: tokens for budget, steps for detailed")
    if isinstance(trusted, bool) or not isinstance(trusted, int | float) or not 0 <= trusted <= 1:
        raise InvalidArgument("trusted is a share from 0 (every memory is trusted) to 1")


def _left_out(sections: Sequence[Section], kept: Iterable[Placed]) -> tuple[str, ...]:
    told = {(each.section, each.place) for each in kept}
    return tuple(
        section.lines[place].source
        for number, section in enumerate(sections)
        for place in section.best
        if (number, place) not in told
    )


# --- what there is to tell ------------------------------------------------------------------------


def _distinct(steps: Sequence[WorkingMemoryStep]) -> list[WorkingMemoryStep]:
    return list({_same(step): step for step in steps}.values())


def _same(step: WorkingMemoryStep) -> tuple[object, ...]:
    """What makes a step this one: two processes of an agent may have given the same number."""
    return step.step_number, step.timestamp, step.action, step.observation


def _once(
    found: Sequence[Found], steps: Sequence[WorkingMemoryStep]
) -> tuple[list[tuple[int, Recalled]], tuple[str, ...]]:
    """The memories that are to be told, the best first, each with its section; and the ids of those that repeat."""
    present = {_same(step) for step in steps}
    ids: set[str] = set()
    said: set[str] = set()
    kept: list[tuple[int, Recalled]] = []
    repeated: list[str] = []
    for section, memory in _ranked(found):
        if memory.memory_id in ids:
            continue
        ids.add(memory.memory_id)
        words = essence(memory)
        if words in said or _lived(memory, present):
            repeated.append(memory.memory_id)
        else:
            said.add(words)
            kept.append((section, memory))
    return kept, tuple(repeated)


def _lived(memory: Recalled, present: set[tuple[object, ...]]) -> bool:
    """Whether a memory is an episode of the steps that are told anyway."""
    return isinstance(memory, EpisodicMemory) and bool(memory.steps) and present.issuperset(map(_same, memory.steps))


def _ranked(found: Sequence[Found]) -> list[tuple[int, Recalled]]:
    """Memories with their sections, the best first; those with equal scores, or none to compare, as they came."""
    best = sorted(found, key=lambda each: (*_kind(each.memory), inf if isnan(each.score) else -each.score))
    return [(_kind(each.memory)[0], each.memory) for each in best]


def _kind(memory: Any) -> tuple[int, int]:
    """A memory's section, and its type, within which scores compare."""
    for type_, section in _KINDS:
        if isinstance(memory, type_):
            return (_PINNED if getattr(memory, "pinned", False) else section), section
    raise InvalidArgument(
        f"a context recalls episodes, knowledge, skills and messages, not {type(memory).__name__}:"
        " give what a search found"
    )


def _sections(
    steps: Sequence[WorkingMemoryStep], memories: Sequence[tuple[int, Recalled]], detailed: int, trusted: float
) -> list[Section]:
    """What could be told, the most useful section first; empty ones are not there."""
    split = max(0, len(steps) - detailed)
    recent = [line_of(step, LONGEST) for step in steps[split:]]
    earlier = folded(steps[:split])
    groups: dict[int, list[Told]] = {}
    for section, memory in memories:
        groups.setdefault(section, []).append(memory_line(memory, trusted))
    sections = [
        Section("Last steps:", 8, recent, range(len(recent))[::-1], marked=False),
        *(Section(*_HEADINGS[number], lines, range(len(lines))) for number, lines in sorted(groups.items())),
        Section("Steps before, in short:", 1, earlier, _failures_first(earlier), marked=False),
    ]
    return [section for section in sections if section.lines]


def _failures_first(lines: Sequence[Told]) -> list[int]:
    return sorted(range(len(lines)), key=lambda place: (not lines[place].failed, -place))
