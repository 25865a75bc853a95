"""The face of agents against a dict that does the same by brute force."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from remanence import MemoryArchitecture
from remanence.errors import Missing

WORDS = ["apple", "river", "stone", "cloud"]
TAGS = ["red", "blue"]
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join)
SOME_TAGS = st.lists(st.sampled_from(TAGS), max_size=2, unique=True)
SHARES = st.sampled_from([0.0, 0.25, 0.5, 1.0])
FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "tags": SOME_TAGS,
        "importance": SHARES,
        "trust": SHARES,
        "agent_id": st.sampled_from(["one", "two", "nobody"]),
    },
)


@dataclass
class Known:
    """What the model knows of a memory."""

    kind: str
    text: str
    agent: str
    created: datetime
    order: int
    parts: dict[str, Any] = field(default_factory=dict)
    executed: list[bool] = field(default_factory=list)


def admitted(known: Known, wanted: dict[str, Any]) -> bool:
    return (
        set(wanted.get("tags") or ()) <= set(known.parts["tags"])
        and known.parts["importance"] >= wanted.get("importance", 0)
        and known.parts["trust"] >= wanted.get("trust", 0)
        and wanted.get("agent_id", known.agent) == known.agent
        and wanted.get("success", known.parts.get("success")) == known.parts.get("success")
    )


NAMES = {"episodic": "episodes", "semantic": "semantic", "skill": "skills"}
TEXT = {"episodic": "task_prompt", "semantic": "pattern", "skill": "description"}


class Face(RuleBasedStateMachine):
    """Two agents of one place, which do what they like."""

    memories = Bundle("memories")

    @initialize()
    def begin(self) -> None:
        self.agents = [MemoryArchitecture(backend="memory", agent_id=name, embedder="none") for name in ("one", "two")]
        self.known: dict[tuple[str, str], Known] = {}
        self.saved = 0

    def _keep(self, kind: str, memory: Any, text: str, **parts: Any) -> tuple[str, str]:
        self.saved += 1
        self.known[kind, memory.memory_id] = Known(kind, text, memory.agent_id, memory.created_at, self.saved, parts)
        return kind, memory.memory_id

    @rule(
        target=memories,
        who=st.integers(0, 1),
        text=TEXTS,
        tags=SOME_TAGS,
        importance=SHARES,
        trust=SHARES,
        ok=st.booleans(),
    )
    def save_episode(self, who: int, text: str, tags: list[str], importance: float, trust: float, ok: bool) -> Any:
        made = self.agents[who].save_episode(text, "", ok, 1.0, None, tags, importance, trust=trust)
        return self._keep("episodic", made, text, tags=tags, importance=importance, trust=trust, success=ok)

    @rule(target=memories, who=st.integers(0, 1), text=TEXTS, tags=SOME_TAGS, importance=SHARES, trust=SHARES)
    def add_semantic(self, who: int, text: str, tags: list[str], importance: float, trust: float) -> Any:
        made = self.agents[who].add_semantic(text, tags=tags, importance=importance, trust=trust)
        return self._keep("semantic", made, text, tags=tags, importance=importance, trust=trust)

    @rule(
        target=memories,
        who=st.integers(0, 1),
        name=st.sampled_from("xy"),
        text=TEXTS,
        tags=SOME_TAGS,
        importance=SHARES,
    )
    def save_skill(self, who: int, name: str, text: str, tags: list[str], importance: float) -> Any:
        made = self.agents[who].save_skill(name, text, [], tags=tags, importance=importance)
        before = self.known.get(("skill", made.memory_id))
        found = self._keep("skill", made, text, tags=tags, importance=importance, trust=1.0, name=name)
        if before is not None:
            now = self.known[found]
            now.executed, now.created, now.order = before.executed, before.created, before.order
        return found

    @rule(who=st.integers(0, 1), name=st.sampled_from("xy"), ok=st.booleans())
    def record(self, who: int, name: str, ok: bool) -> None:
        known = next((each for each in self.known.values() if each.parts.get("name") == name), None)
        try:
            told = self.agents[who].record_skill_execution(name, ok, 0.5)
        except Missing:
            assert known is None
            return
        assert known is not None and told is not None
        known.executed.append(ok)
        assert (told.times_executed, told.times_succeeded) == (len(known.executed), sum(known.executed))

    @rule(memory=memories, who=st.integers(0, 1), text=TEXTS, tags=SOME_TAGS, importance=SHARES)
    def update(self, memory: tuple[str, str], who: int, text: str, tags: list[str], importance: float) -> None:
        kind, id = memory
        known = self.known.get(memory)
        named = id if known is None else known.parts.get("name", id)
        change = getattr(self.agents[who], f"update_{NAMES[kind].rstrip('s')}")
        try:
            change(named, **{TEXT[kind]: text, "tags": tags, "importance": importance})
        except Missing:
            assert known is None
            return
        assert known is not None
        known.text = text
        known.parts |= {"tags": tags, "importance": importance}

    @rule(memory=consumes(memories), who=st.integers(0, 1))
    def delete(self, memory: tuple[str, str], who: int) -> None:
        self.agents[who].delete(*memory)  # type: ignore[arg-type]
        self.known.pop(memory, None)

    @rule(who=st.integers(0, 1), kind=st.sampled_from(sorted(NAMES)), word=st.sampled_from(WORDS), wanted=FILTERS)
    def search(self, who: int, kind: str, word: str, wanted: dict[str, Any]) -> None:
        verb = getattr(self.agents[who], f"search_{NAMES[kind]}")
        found = [each.memory_id for each in verb(word, 1000, mode="keyword", **wanted)]
        fit = [
            id
            for (of, id), known in self.known.items()
            if of == kind and word in known.text and admitted(known, wanted)
        ]
        assert sorted(found) == sorted(fit)

    @rule(
        who=st.integers(0, 1),
        kind=st.sampled_from(sorted(NAMES)),
        wanted=FILTERS,
        limit=st.integers(1, 4),
        ok=st.booleans(),
    )
    def list(self, who: int, kind: str, wanted: dict[str, Any], limit: int, ok: bool) -> None:
        verb = getattr(self.agents[who], f"list_{NAMES[kind]}")
        wanted = {**wanted, "success": ok} if kind == "episodic" else wanted
        found, after, more = [], "", True
        while more:
            page = verb(**wanted, limit=limit, after=after)
            found += [each.memory_id for each in page]
            assert len(page) == limit or not page.after
            after, more = page.after, bool(page.after) and len(found) <= len(self.known)
        fit = [(known.created, id) for (of, id), known in self.known.items() if of == kind and admitted(known, wanted)]
        assert found == [id for _, id in sorted(fit, reverse=True)]

    @invariant()
    def numbers(self) -> None:
        for agent in getattr(self, "agents", ()):
            told = agent.get_stats()
            assert {kind: told[kind] for kind in NAMES} == {
                kind: sum(of == kind for of, _ in self.known) for kind in NAMES
            }

    def teardown(self) -> None:
        for agent in getattr(self, "agents", ()):
            agent.close()


Face.TestCase.settings = settings(max_examples=50, stateful_step_count=25)
test_the_face_does_what_a_dict_would = Face.TestCase
