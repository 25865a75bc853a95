"""What consolidation does and from when on, and what it says it did."""

import hashlib

import msgspec

from remanence.errors import InvalidSetting
from remanence.faces.agents.tending.likeness import Likeness

DAY = 86400.0


def typed(settings: msgspec.Struct) -> None:
    """Raises `InvalidSetting` naming a field that is of another type than it says."""
    for field in msgspec.structs.fields(settings):
        try:
            msgspec.convert(getattr(settings, field.name), field.type)
        except (msgspec.ValidationError, OverflowError):
            raise InvalidSetting(f"{field.name} is of the wrong type: see {type(settings).__name__}") from None


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What a pass does. Times are seconds. As it is, nothing is ever forgotten.

    `merge`: near-duplicates are merged, each into one that says all it says (see `Likeness.whole`), from a cosine of
    0.9 and four in five words on. Tasks that differ in a single word have cosines up to 0.98: the words decide there.
    `min_episodes`: from how many on similar ones make a pattern; two may be chance. `pattern_ttl`: None is for ever.
    `forget_below`: episodes of less utility go, once older than `forget_after`; None: none. `most_episodes`: past
    that many the least useful go, but none younger than `spare`; None: there is no such number.
    `lease`: how long a worker that died keeps others out.
    """

    merge: bool = True
    duplicate_cosine: float = 0.9
    duplicate_overlap: float = 0.8
    min_episodes: int = 3
    similar_cosine: float = 0.65
    similar_overlap: float = 0.33
    pattern_ttl: float | None = 90 * DAY
    half_life: float = 30 * DAY
    forget_below: float | None = None
    forget_after: float = 90 * DAY
    most_episodes: int | None = None
    spare: float = DAY
    lease: float = 60.0

    def __post_init__(self) -> None:
        typed(self)
        shares = ("duplicate_cosine", "duplicate_overlap", "similar_cosine", "similar_overlap", "forget_below")
        for name in shares:
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InvalidSetting(f"{name} must be between 0 and 1")
        for name in ("half_life", "lease", "pattern_ttl"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InvalidSetting(f"{name} must be a positive number of seconds")
        for name in ("forget_after", "spare"):
            if not getattr(self, name) >= 0:
                raise InvalidSetting(f"{name} must be a number of seconds, 0 or more")
        if self.min_episodes < 2:
            raise InvalidSetting("min_episodes must be 2 or more: one episode is no pattern")
        if self.most_episodes is not None and self.most_episodes < 1:
            raise InvalidSetting("most_episodes must be 1 or more")

    @property
    def duplicates(self) -> Likeness:
        """When two episodes are the same one told twice."""
        return Likeness(self.duplicate_cosine, self.duplicate_overlap, whole=True)

    @property
    def similar(self) -> Likeness:
        """When two tasks are of a kind."""
        return Likeness(self.similar_cosine, self.similar_overlap)

    @property
    def forgets(self) -> bool:
        """Whether anything may be forgotten at all."""
        return self.forget_below is not None or self.most_episodes is not None

    @property
    def name(self) -> str:
        """Equal for equal policies: a pass that was begun under another one is not gone on with."""
        return hashlib.blake2b(msgspec.json.encode(self), digest_size=8).hexdigest()


class Consolidated(msgspec.Struct, frozen=True, kw_only=True):
    """What a pass did: counts and ids, no text.

    `state`: "done"; "busy" (another worker is at it: nothing was done); "lost" (the right was lost on the way, and what
    is left is done by the next pass). `resumed`: it went on where another had stopped.
    """

    state: str
    resumed: bool = False
    looked_at: int = 0
    """Episodes."""
    kept: tuple[str, ...] = ()
    """Episodes that stand for others since this pass."""
    merged: tuple[str, ...] = ()
    """Those others: left out of searches, and still stored."""
    restored: tuple[str, ...] = ()
    """Episodes that are found again, because what stood for them is gone, or a merge had been stopped half way."""
    patterns_made: tuple[str, ...] = ()
    patterns_grown: tuple[str, ...] = ()
    forgotten: tuple[str, ...] = ()
    too_many: int = 0
    """Episodes past `most_episodes` that may not be forgotten."""
    changed_meanwhile: int = 0
    """Decisions that were dropped because somebody changed a memory; the next pass decides anew."""
    unworded: int = 0
    """Sentences for which `reword` failed or gave nothing to store: they stayed as they were made here."""
    seconds: float = 0.0
