"""What tests of the feed have at hand: each scene is played on threads and in a loop."""

import pytest

from remanence.testing.feed_scenes import Play, in_a_loop, in_threads


@pytest.fixture(params=[in_threads, in_a_loop])
def play(request: pytest.FixtureRequest) -> Play:
    return request.param  # type: ignore[no-any-return]
