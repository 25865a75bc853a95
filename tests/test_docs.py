"""Documentation runs: every Python example of README and docs, against a real server where one is named."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

from remanence.engine import BlockingEngine
from remanence.engine.opening import engines
from remanence.sync.opening import Opened

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
DOCUMENTED = [
    "remanence.sync.state",
    "remanence.sync.messages",
    "remanence.sync.conversations",
    "remanence.sync.agents",
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_examples_of_a_page_run_one_after_the_other(page, server, capsys):
    names: dict[str, object] = {"__name__": "example"}
    try:
        for example in FENCE.findall(page.read_text(encoding="utf-8")):
            code = example.replace('"localhost", 6379', f'"127.0.0.1", {server.port}')
            code = code.replace("localhost:6379", f"127.0.0.1:{server.port}")
            exec(compile(code, str(page), "exec"), names)
    finally:  # what an example left open would go on beside the tests behind this one
        for each in names.values():
            if isinstance(each, Opened):
                each.close(0.0)
        for each in list(engines):
            if isinstance(each, BlockingEngine):
                each.close(0.0)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_examples_of_docstrings_run(name):
    results = doctest.testmod(importlib.import_module(name))
    assert results.failed == 0


def test_every_setting_is_documented():
    from dataclasses import fields

    from remanence.settings import Settings

    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    for field in fields(Settings):
        rule = field.metadata
        row = f"| `{field.name}` | `{rule['env']}` | {field.default!r} | {rule['meaning']} |"
        assert row in text, f"docs/settings.md lacks or misstates {field.name}: {row}"
