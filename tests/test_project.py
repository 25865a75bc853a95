"""The project's own promises: who imports whom, what is banned, and that its files name what exists."""

import ast
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

import remanence

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "remanence"
SOURCES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES = 400

FLOORS = (
    {"errors"},
    {"options"},
    {"model", "settings"},
    {"protocols", "events"},
    {"wire", "runtime"},
    {"feed"},
    {"stores", "search"},
    {"faces"},
    {"engine"},
    {"sync", "aio", "integrations"},
    {"server"},
    {"commands"},
    {"cli"},
    {"__main__"},
)
"""The rooms from the ground up. Each may import those below it, none beside it, none above."""
EXCEPTIONS = {"observers": {"events"}}
"""Rooms that may import these alone."""
ANYTHING = {"testing", ""}
"""Rooms that may import every other: the tools of tests, and the front door ("") with its names."""
SEES_THE_ROOT = {"cli", "__main__", "testing"}

KEEPERS = {
    "redis": ("wire/", "errors.py", "testing/"),
    "apsw": ("wire/sqlite.py", "testing/", "runtime/simulated"),
    "sqlite3": ("testing/",),
}
"""Foreign packages, and the only places that import them."""
BANNED = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}


class Import(NamedTuple):
    """`module` as imported at `where`; of `from a import b`, both `a` and `a.b`."""

    module: str
    where: str


def imports(path: Path) -> Iterator[Import]:
    """Every import of a file, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text())):
        where = f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            yield from (Import(name.name, where) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{where}: imports are spelled in full"
            assert node.module
            if node.module != "remanence":
                yield Import(node.module, where)
                continue
            for name in node.names:
                yield Import(f"remanence.{name.name}" if is_room(name.name) else "remanence", where)


def is_room(name: str) -> bool:
    return (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()


def room(path: Path) -> str:
    """The room of a file: its folder or its own name, "" for the front door."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def allowed(importer: str) -> set[str]:
    """The rooms that a room may import."""
    if importer in EXCEPTIONS:
        return EXCEPTIONS[importer]
    (height,) = (n for n, floor in enumerate(FLOORS) if importer in floor)
    below: set[str] = set().union(*FLOORS[:height])
    if importer in {"engine", "sync", "server", "commands", "cli"}:
        below |= set(EXCEPTIONS)
    return below | {"testing"} if importer == "commands" else below  # the demo takes real servers down


def fault(importer: str, module: str) -> str:
    """What is wrong with this import, "" where nothing is."""
    top, _, rest = module.partition(".")
    if top != "remanence":
        return ""
    target = rest.partition(".")[0]
    if not target:
        return "" if importer in SEES_THE_ROOT | {""} else "imports the package root"
    if importer in ANYTHING or target == importer or target in allowed(importer):
        return ""
    return f"imports {target}, which is not below {importer}"


# --- rooms and imports ----------------------------------------------------------------------------


def test_every_room_has_its_floor():
    known = set().union(*FLOORS) | set(EXCEPTIONS) | ANYTHING
    rooms = {room(path) for path in SOURCES}
    assert rooms <= known, f"give these rooms a floor, here and in ARCHITECTURE.md: {rooms - known}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downhill(path: Path):
    faults = [f"{each.where} {why}" for each in imports(path) if (why := fault(room(path), each.module))]
    assert not faults


def test_the_rule_itself_finds_what_it_should():
    assert fault("wire", "remanence.runtime.blocking")
    assert fault("runtime", "remanence.wire")
    assert fault("stores", "remanence.search")
    assert fault("settings", "remanence.model")
    assert fault("faces", "remanence")
    assert fault("stores", "remanence.testing.servers")
    assert fault("observers", "remanence.errors")
    assert not fault("observers", "remanence.events")
    assert not fault("stores", "remanence.stores.memory")
    assert not fault("cli", "remanence")
    assert not fault("commands", "remanence.testing.servers")
    assert fault("commands", "remanence.cli")
    assert not fault("testing", "remanence.engine")
    assert not fault("wire", "redis.asyncio")


@pytest.mark.parametrize("package", KEEPERS)
def test_a_foreign_package_is_imported_at_its_seam_alone(package: str):
    found = [each.where for path in SOURCES for each in imports(path) if each.module.split(".")[0] == package]
    assert [where for where in found if not where.startswith(KEEPERS[package])] == []


def test_nothing_reads_formats_that_run_code():
    found = [each for path in SOURCES for each in imports(path) if each.module.split(".")[0] in BANNED]
    assert found == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_is_too_long(path: Path):
    lines = len(path.read_text().splitlines())
    assert lines <= MOST_LINES, f"{lines} lines: see what of it is a thing of its own"


# --- the package ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_version_is_the_same_everywhere(project: dict[str, Any]):
    assert remanence.__version__ == project["project"]["version"]
    assert project["project"]["version"] in (ROOT / "CHANGELOG.md").read_text()


def test_the_metadata_names_what_exists(project: dict[str, Any]):
    told = project["project"]
    assert told["requires-python"] == ">=3.11"
    assert told["license"] == "MIT"
    for name in [told["readme"], *told["license-files"]]:
        assert (ROOT / name).is_file()
    module, _, function = told["scripts"]["remanence"].partition(":")
    __import__(module)
    assert callable(getattr(sys.modules[module], function))


def test_redis_has_no_upper_bound(project: dict[str, Any]):
    (redis,) = (d for d in project["project"]["dependencies"] if d.startswith("redis"))
    assert redis.startswith("redis[hiredis]>=5.0.1")
    assert "<" not in redis


def test_the_wheel_holds_what_the_package_needs(tmp_path: Path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    needed = [p for p in PACKAGE.rglob("*") if p.suffix in {".py", ".lua", ".sql"} or p.name == "py.typed"]
    assert PACKAGE / "py.typed" in needed
    assert {str(path.relative_to(PACKAGE.parent)) for path in needed} <= held


# --- the files around it --------------------------------------------------------------------------


def targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", ".ci/run", ".devcontainer/devcontainer.json"])
def test_every_make_command_that_is_named_exists(name: str):
    text = (ROOT / name).read_text()
    named = re.findall(r"`make ([a-z]+)|^make (?:--\S+ )?([a-z]+)|\"make ([a-z]+)", text, re.MULTILINE)
    assert {"".join(each) for each in named} <= targets()


def services(*files: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for file in files:
        found |= yaml.safe_load(file.read_text())["services"]
    return found


def test_compose_gives_a_durable_redis_on_loopback():
    told = yaml.safe_load((ROOT / "compose.yaml").read_text())
    redis = told["services"]["redis"]
    assert redis["image"].startswith("redis:7")
    assert redis["command"][redis["command"].index("--appendonly") + 1] == "yes"
    assert redis["healthcheck"]["test"][0] == "CMD"
    assert all(port.startswith("127.0.0.1:") for port in redis["ports"])
    assert {volume.partition(":")[0] for volume in redis["volumes"]} <= set(told["volumes"])


def test_the_dev_container_names_what_exists():
    folder = ROOT / ".devcontainer"
    told = json.loads((folder / "devcontainer.json").read_text())
    found = services(*((folder / name).resolve() for name in told["dockerComposeFile"]))
    assert {told["service"], *told["runServices"]} <= set(found)
    workspace = found[told["service"]]
    assert set(workspace["depends_on"]) <= set(found)
    assert f".:{told['workspaceFolder']}" in workspace["volumes"]
    assert told["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"].startswith(
        told["workspaceFolder"]
    )
    host = workspace["environment"]["REDIS_URL"].removeprefix("redis://").partition(":")[0]
    assert host in found


def test_ci_runs_the_readmes_command():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111, "it must be executable"
    subprocess.run(["bash", "-n", script], check=True)
    assert re.search(r"^make .*test$", script.read_text(), re.MULTILINE)
    assert "make test" in (ROOT / "README.md").read_text()
