"""What a feed remembers of its log, and what it makes of too many notices: pure."""

import pytest

from remanence.feed.subscription import QUEUE, coalesced
from remanence.feed.trail import REMEMBERED, TOLD, Trail, notice_of
from remanence.model import RESYNC, Change
from remanence.testing.feed_scenes import notice
from remanence.testing.store_case import op_id


def change(n: int, key: str = "k", kind: str = "put", result: str = "ok") -> Change:
    return Change(str(n), op_id(n), "L", n, kind, result, key)


def test_a_trail_tells_each_operation_once():
    trail = Trail()
    assert trail.news([change(1), change(2)]) == [change(1), change(2)]
    assert trail.news([change(2), change(3)]) == [change(3)]


@pytest.mark.parametrize(
    ("kind", "result"),
    [
        ("put", "conflict"),
        ("put", "stale"),
        ("append", "wrongtype"),
        ("append", "expired"),
        ("touch", "expired"),
        ("blank", "ok"),
        ("blank", "refused"),
    ],
)
def test_what_changed_nothing_is_no_news(kind: str, result: str):
    assert Trail().news([change(1, kind=kind, result=result)]) == []
    assert notice_of(change(1, kind=kind, result=result), 0) is None


def test_a_put_past_its_lifetime_deleted():
    assert Trail().news([change(1, result="expired")])
    found = notice_of(change(1, result="expired"), 3)
    assert found is not None and (found.kind, found.key, found.source) == ("delete", "k", 3)


def test_what_a_log_lost_is_news_again_and_the_rest_is_not():
    trail = Trail()
    trail.news([change(n) for n in range(1, 6)])
    assert trail.cut(3) == [change(4), change(5)] and len(trail) == 3
    assert trail.news([change(3), change(4)]) == [change(4)]


def test_all_may_be_news_again_once_a_log_has_nothing_of_what_was_heard():
    trail = Trail()
    old = [change(n) for n in range(1, REMEMBERED + 100)]
    trail.news(old)
    trail.cut(0)
    assert trail.news(old) == old


def test_a_trail_is_bounded():
    trail = Trail()
    for start in range(0, TOLD + 5000, 500):
        trail.news([change(n) for n in range(start, start + 500)])
    assert len(trail) == REMEMBERED and len(trail._told) == TOLD


def test_too_many_notices_come_down_to_the_last_of_each_key_in_order():
    queue = [notice(n, key) for n, key in enumerate(["a", "b", "a", "c", "b"], 1)]
    assert list(coalesced(queue)) == [queue[2], queue[3], queue[4]]
    apart = [notice(1, "a", 0), notice(1, "a", 1)]
    assert list(coalesced(apart)) == apart, "two partitions' keys are two"


def test_too_many_keys_come_down_to_a_resync_of_each_partition():
    queue = [notice(n, f"k{n}", n % 2) for n in range(QUEUE + 1)]
    left = list(coalesced(queue))
    assert [(each.key, each.kind, each.source) for each in left] == [("", RESYNC, 0), ("", RESYNC, 1)]
    assert [each.cursor for each in left] == [queue[-1].cursor, queue[-2].cursor]
