"""The real engine in simulated histories: nothing is lost, doubled or reordered."""

import os
import subprocess
import sys
from collections.abc import Callable

import msgspec
import pytest

from remanence.testing.simulator.__main__ import main
from remanence.testing.simulator.histories import plan, play, play_divided

SOAK_SEEDS = int(os.environ.get("SOAK_SEEDS", "100000"))


@pytest.mark.parametrize("first", range(0, 300, 50))
def test_no_history_violates_an_invariant(first: int):
    broken = [report for seed in range(first, first + 50) if (report := play(seed)).violations]
    assert not broken, "\n".join(f"seed {report.seed}: {report.violations[0]}" for report in broken)


@pytest.mark.parametrize("seed", [100070, 100469, 100905, 101513, 102191, 301888])
@pytest.mark.parametrize("reads", ["near", "mirror"])
def test_histories_that_went_wrong_once(seed: int, reads: str):
    made = plan(seed)
    report = play(seed, msgspec.structs.replace(made, settings={**made.settings, "reads": reads}))
    assert not report.violations, report.violations


@pytest.mark.parametrize("first", range(0, 80, 40))
def test_no_history_with_several_partitions_and_listeners_violates_an_invariant(first: int):
    broken = [report for seed in range(first, first + 40) if (report := play_divided(seed)).violations]
    assert not broken, "\n".join(f"seed {report.seed}: {report.violations[0]}" for report in broken)


@pytest.mark.parametrize("seed", [55, 130, 180, 247, 297, 704, 820, 942, 1102, 4337])
def test_histories_with_several_partitions_that_went_wrong_once(seed: int):
    assert not play_divided(seed).violations


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("mode", "share"), [((), 1), (("--divided",), 5)], ids=["one", "several"])
def test_t41_long(mode: tuple[str, ...], share: int, capsys: pytest.CaptureFixture[str], campaign: Callable[..., None]):
    code = main(["--seeds", str(SOAK_SEEDS // share), "--from", "1000", "--json", *mode])
    told = msgspec.json.decode(capsys.readouterr().out)
    injected = f"{told['histories']} histories, {sum(told['faults'].values())} faults"
    campaign(injected, told["writes"], told["lost"], told["duplicated"], told["out_of_order"])
    assert code == 0, told["broken"][:5]


def test_a_seed_is_the_same_history_anywhere():
    script = (
        "from remanence.testing.simulator.histories import play, play_divided;"
        "print([play(s) for s in (11, 12, 15)], play_divided(4))"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": n, "PYTHONPATH": ":".join(sys.path)},
            check=True, capture_output=True, text=True,
        ).stdout
        for n in ("1", "2")
    }  # fmt: skip
    assert told == {f"{[play(seed) for seed in (11, 12, 15)]} {play_divided(4)}\n"}


def test_histories_hold_what_they_are_to_prove():
    """A simulator that injected nothing would find nothing either."""
    reports = [play(seed) for seed in range(60)]
    faults = {name for report in reports for name in report.faults}
    assert faults >= {
        "kill",
        "kill in write",
        "power",
        "failover",
        "empty",
        "partition",
        "clone",
        "late",
        "reply lost",
    }
    heard = {name for report in reports for name in report.events}
    assert heard >= {"Rewound", "DataLost", "Forked", "OrphanAdopted", "WriteStale", "BecameUnavailable"}
    assert sum(report.writes for report in reports) > 3000
