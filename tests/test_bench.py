"""The benchmark measures what it says: its arithmetic, its order, and that every case runs. Never a time."""

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from remanence.cli import main
from remanence.testing.bench import rounds
from remanence.testing.bench.report import CASES, Line, markdown, measured
from remanence.testing.bench.rounds import Figure, interleaved, ratio, repeated
from remanence.testing.bench.workbench import FULL, Amount, Bench, Case, Untrue, bench_on, confirm

TINY = Amount(rounds=2, slow_rounds=1, share=0.001)
BARS = {
    "applied": "≤ 1.60 x",
    "journalled": "≤ 0.60 x",
    "message": "≤ 1.40 x",
    "hundred": "≤ 1.20 x",
    "tasks": "≤ 0.40 x",
    "tail": "≤ 1.30 x",
    "away": "≤ 0.60 x",
    "hung": "≤ 50 ms",
    "hung-after": "≤ 1.0 ms",
    "replay": "≥ 20,000 /s",
    "held": "≤ 50 MB",
    "import": "≤ 80 ms",
    "near": "≤ 0.08 x",
    "mirror": "≤ 0.40 x",
    "heard": "≤ 2.0 ms",
    "heard-99": "≤ 10 ms",
    "listeners": "≤ 1.10 x",
    "filled": "≤ 10 s",
    "followed": "≤ 0.2 s",
    "search": "≤ 3.0 ms",
    "search-99": "≤ 10 ms",
    "search-many": "≤ 12 ms",
    "search-many-99": "≤ 40 ms",
    "keyword": "≤ 3.0 ms",
    "saved": "≤ 1.5 ms",
    "saved-embedded": "≤ 1.0 ms",
    "loaded": "≥ 1,500 /s",
    "context": "≤ 40 ms",
    "by-id": "≤ 1.50 x",
    "on-disk": "≤ 1.0 kB",
}


# --- arithmetic -----------------------------------------------------------------------------------


def test_a_ratio_is_taken_round_by_round():
    figure = ratio([(2.0, 1.0), (30.0, 10.0), (4.0, 4.0)], count=10)
    assert figure.values == (2.0, 3.0, 1.0)
    assert figure.median == 2.0  # and not 36/15, which the slow round would decide
    assert figure.ours == pytest.approx(0.4)
    assert figure.naive == pytest.approx(0.4)


def test_quartiles_are_those_of_the_rounds():
    figure = Figure((1.0, 2.0, 3.0, 4.0, 5.0))
    assert figure.quartiles == (2.0, 4.0)
    assert Figure((7.0,)).quartiles == (7.0, 7.0)


def test_each_way_goes_first_every_other_round_after_a_warm_up_that_does_not_count():
    order: list[str] = []
    ticks: list[int] = []
    seconds = iter(range(1, 100))

    def way(name: str) -> rounds.Timed:
        def timed() -> float:
            order.append(name)
            return float(next(seconds))

        return timed

    times = interleaved(way("ours"), way("naive"), 3, lambda: ticks.append(len(order)))
    assert "".join(name[0] for name in order) == "no" + "on" + "no" + "on"
    assert times == [(3.0, 4.0), (6.0, 5.0), (7.0, 8.0)]
    assert ticks == [4, 6, 8]


def test_what_comes_before_and_after_is_not_timed(monkeypatch: pytest.MonkeyPatch):
    clock = [0.0]

    def spend(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(rounds.time, "perf_counter", lambda: clock[0])
    timed = repeated(lambda: spend(2), 3, before=lambda: spend(100), after=lambda: spend(1000))
    assert timed() == 6.0
    assert clock[0] == 1106.0


def test_the_median_decides_against_the_bar():
    low = Case("a", "a", 1.5, "x", lambda bench: Figure(()))
    high = Case("b", "b", 100, "/s", lambda bench: Figure(()), at_least=True)
    assert Line(low, Figure((1.0, 1.5, 9.0))).verdict == "pass"
    assert Line(low, Figure((1.0, 1.6, 1.7))).verdict == "missed"
    assert Line(high, Figure((99.0, 100.0, 101.0))).verdict == "pass"
    assert Line(high, Figure((99.0, 99.0, 500.0))).verdict == "missed"


# --- the cases ------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["redis", "valkey"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A bench that does next to nothing, on each kind of server: its cases stop and freeze it."""
    try:
        with bench_on(request.param, TINY) as found:
            yield found
    except LookupError as error:
        pytest.skip(str(error))


def test_the_cases_are_the_rows_of_the_promise():
    assert {case.name: Line(case, None).cells()[1] for case in CASES} == BARS
    assert FULL.rounds >= 7


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_comes_to_a_figure_for_each_round(bench: Bench, case: Case):
    ticks: list[str] = []
    bench.tick = lambda: ticks.append(case.name)
    (line,) = measured(bench, [case], lambda each: None)
    assert line.fault == ""
    assert line.figure is not None
    assert len(line.figure.values) == len(ticks) == case.ticks(TINY)
    assert statistics.median(line.figure.values) == line.figure.median
    assert bench.server.running
    bench.server.wait_ready()


def test_a_case_that_measured_something_else_has_no_figure(bench: Bench):
    def wrong(bench: Bench) -> Figure:
        with bench.memory() as memory:
            bench.server.kill()
            confirm(memory.set("s", 1), "applied")
        raise AssertionError("an unconfirmed write went unnoticed")

    (line,) = measured(bench, [Case("x", "x", 1, "x", wrong)], lambda each: None)
    assert line.figure is None
    assert line.verdict == "no figure"
    assert line.fault == "a write was journalled, not applied"
    bench.server.wait_ready()  # the next case finds it as it should be


def test_a_fault_of_the_bench_itself_is_not_hidden(bench: Bench):
    with pytest.raises(ZeroDivisionError):
        measured(bench, [Case("x", "x", 1, "x", lambda bench: 1 // 0)], lambda each: None)  # type: ignore[arg-type,return-value]
    assert issubclass(Untrue, RuntimeError)


# --- what is shown --------------------------------------------------------------------------------


def test_the_markdown_is_a_table_with_its_footing():
    lines = [
        Line(CASES[0], Figure((1.5, 1.25, 1.75))),
        Line(next(case for case in CASES if case.name == "replay"), Figure((12345.6,))),
        Line(CASES[1], None, "it did not work"),
    ]
    table, _, footing = markdown(lines, ["with this", "and that"]).partition("\n\n")
    assert footing == "with this\nand that"
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()]
    assert {len(row) for row in rows} == {5}
    assert rows[1] == ["---"] * 5
    assert rows[2][1:] == ["≤ 1.60 x", "1.50 x", "1.38 x to 1.62 x", "pass"]
    assert rows[3][1:] == ["≥ 20,000 /s", "12,346 /s", "12,346 /s to 12,346 /s", "missed"]
    assert rows[4][2:] == ["—", "it did not work", "no figure"]


def test_the_command_prints_figures_for_programs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    monkeypatch.setattr("remanence.commands.bench.QUICK", TINY)
    assert main(["--json", "bench", "--quick", "--only", "hung"]) == 0
    told = json.loads(capsys.readouterr().out)
    (case,) = told["cases"]
    assert case["name"] == "hung"
    assert len(case["values"]) == TINY.rounds
    assert case["verdict"] in ("pass", "missed")
    assert told["command"] == "remanence bench --only hung --quick --json"
    assert {"redis-py", "hiredis", "Python", "cores"} < set(told["with"])


def test_the_command_prints_a_table_for_people(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("remanence.commands.bench.QUICK", TINY)
    assert main(["bench", "--quick", "--only", "hung"]) == 0
    told = capsys.readouterr().out
    assert "first write to a hung server" in told
    assert "≤ 50 ms" in told
    assert "pass" in told or "missed" in told
    assert "remanence bench --only hung --quick" in told


def test_a_server_that_is_not_here_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("remanence.commands.bench.available_servers", dict)
    assert main(["bench", "--server", "valkey"]) == 1
    assert "no valkey server is found here" in capsys.readouterr().err


# --- retrieval --------------------------------------------------------------------------------------


def a_set(folder: Path) -> Path:
    folder.mkdir()
    memories = [
        {"id": "a", "text": "Anna plays the violin on Mondays", "speaker": "Anna", "session": "1"},
        {"id": "b", "text": "Ben repairs bicycles", "speaker": "Ben", "session": "1"},
    ]
    questions = [{"id": "1", "text": "Who repairs a bicycle?", "evidence": ["b"], "category": "work"}]
    (folder / "one.json").write_text(json.dumps({"memories": memories, "questions": questions}))
    return folder


def test_how_well_search_finds_is_told_of_each_set(answered: Any, tmp_path: Path):
    a_set(tmp_path / "mine")
    code, told, _ = answered("bench", "retrieval", str(tmp_path), "--json")
    assert code == 0
    assert told["sets"]["mine"]["all"] == told["sets"]["mine"]["work"]
    assert told["sets"]["mine"]["all"]["questions"] == 1
    code, told, _ = answered("bench", "retrieval", str(tmp_path / "mine"))
    assert [line.split()[0] for line in told.splitlines()] == ["mine", "all", "work"]


@pytest.mark.parametrize("words", [["retrieval"], ["speed"], ["retrieval", "nowhere"], ["retrieval", "wrong"]])
def test_what_is_no_set_is_said(spoken: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "one.json").write_text('{"memories": 5}')
    code, _, complaint = spoken("bench", *words)
    assert code == 2
    assert "retrieval" in complaint or "set" in complaint
