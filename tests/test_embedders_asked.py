"""Embedders that are asked: over HTTP, on servers made here, and functions. And an index while they are away."""

import json
import math
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from remanence.errors import DeadlineExceeded, InvalidArgument, Misconfigured, Unavailable
from remanence.search import meaning
from remanence.search.embedders import embedder_from, http, identity
from remanence.search.embedders.asking import LONGEST
from remanence.search.embedders.function import FunctionEmbedder
from remanence.search.embedders.minilm import MiniLMEmbedder
from remanence.search.embedders.ollama import OllamaEmbedder
from remanence.search.embedders.openai import OpenAIEmbedder
from remanence.search.embedders.static import StaticEmbedder
from remanence.search.sqlite import SQLiteIndex
from remanence.search.types import Document

KEY = "sk-open-sesame"
TOPICS = ("boat", "apple", "cloud")


def meant(text):
    """A vector that can be followed by hand: which topics a text names."""
    return [float(topic in text) for topic in TOPICS] + [0.5]


class Server:
    """Answers as Ollama and OpenAI do; what it does wrong is set by the test."""

    def __init__(self):
        self.requests = []
        self.codes = []
        self.answer = None
        self.delay = 0.0
        self.trickle = False
        self.located = ""
        owner = self

        class Answers(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                owner.requests.append((self.path, dict(self.headers), body))
                time.sleep(owner.delay)
                code = owner.codes.pop(0) if owner.codes else 200
                told = owner.told(self.path, body) if code == 200 else b'{"error": "no"}'
                self.send_response(code)
                if owner.located:
                    self.send_header("Location", owner.located)
                self.send_header("Content-Length", str(len(told)))
                self.end_headers()
                self.write(told)

            def write(self, told):
                if not owner.trickle:
                    self.wfile.write(told)
                    return
                for at in range(len(told)):
                    try:
                        self.wfile.write(told[at : at + 1])
                        self.wfile.flush()
                    except OSError:
                        return
                    time.sleep(0.05)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def told(self, path, body):
        if self.answer is not None:
            return self.answer if isinstance(self.answer, bytes) else json.dumps(self.answer).encode()
        rows = [meant(text) for text in body["input"]]
        if path == "/api/embed":
            return json.dumps({"model": body["model"], "embeddings": rows}).encode()
        assert path == "/v1/embeddings"
        found = [{"object": "embedding", "index": number, "embedding": row} for number, row in enumerate(rows)]
        return json.dumps({"object": "list", "data": found[::-1]}).encode()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def embedder(self, kind="openai", **options):
        if kind == "ollama":
            return OllamaEmbedder("nomic", url=self.url, **options)
        return OpenAIEmbedder("small", url=f"{self.url}/v1", key=KEY, **options)

    def close(self):
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.thread.join()
            self.server = None


@pytest.fixture
def server():
    found = Server()
    yield found
    found.close()


# --- over HTTP ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ollama", "openai"])
def test_texts_become_vectors_of_length_one(server, kind):
    embedder = server.embedder(kind, batch=2)
    assert embedder.known_dimensions is None
    rows = embedder.embed(["a boat", "", "an apple", " \n", "boat cloud"])
    expected = np.array([meant("boat"), [0] * 4, meant("apple"), [0] * 4, meant("boat cloud")])
    expected /= np.maximum(np.linalg.norm(expected, axis=1, keepdims=True), 1e-9)
    assert rows == pytest.approx(expected, abs=1e-6)
    assert rows.dtype == np.float32
    assert [body["input"] for _, _, body in server.requests] == [["a boat", "an apple"], ["boat cloud"]]
    assert identity(embedder) == ("ollama:nomic/4" if kind == "ollama" else "openai:small/4")


def test_the_dimensions_are_asked_for_when_needed(server):
    embedder = server.embedder()
    assert embedder.dimensions == 4
    assert len(server.requests) == 1
    assert server.embedder(dimensions=4).dimensions == 4
    assert len(server.requests) == 1


def test_the_key_is_sent_and_never_shown(server):
    embedder = server.embedder()
    embedder.embed(["boat"])
    assert server.requests[0][1]["Authorization"] == f"Bearer {KEY}"
    assert KEY not in repr(embedder) + repr(vars(embedder)) + repr(embedder._endpoint)
    server.codes = [401]
    with pytest.raises(Misconfigured, match="refuses the key") as told:
        embedder.embed(["a secret boat"])
    for error in (told.value, told.value.__cause__):
        assert KEY not in repr(error)
        assert "secret" not in repr(error)


def test_long_texts_are_cut(server):
    server.embedder().embed(["boat " * LONGEST])
    assert len(server.requests[0][2]["input"][0]) == LONGEST


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_busy_server_is_asked_again(server, code):
    server.codes = [code, code]
    assert server.embedder().embed(["boat"]).shape == (1, 4)
    assert len(server.requests) == 3
    server.codes = [code] * 9
    with pytest.raises(Unavailable, match=str(code)):
        server.embedder().embed(["boat"])
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    ("code", "said"), [(400, "refuses"), (403, "key"), (404, "ollama pull nomic"), (413, "refuses")]
)
def test_a_refusal_says_what_to_do_and_is_not_repeated(server, code, said):
    server.codes = [code]
    with pytest.raises(Misconfigured, match=said):
        server.embedder("ollama").embed(["boat"])
    assert len(server.requests) == 1


def test_the_key_does_not_follow_a_redirect(server, request):
    elsewhere = Server()
    request.addfinalizer(elsewhere.close)
    server.codes, server.located = [302], f"{elsewhere.url}/v1/embeddings"
    with pytest.raises(Misconfigured, match="302"):
        server.embedder().embed(["boat"])
    assert elsewhere.requests == []


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>",
        b"",
        b"\xff",
        b"[" * 5000,
        [],
        {},
        {"embeddings": None, "data": None},
        {"embeddings": [], "data": []},
        {"embeddings": [[1, 2], [3]], "data": [{"index": 0, "embedding": [1, [2]]}]},
        {"embeddings": [["x"]], "data": [{"index": 0, "embedding": "x"}]},
        {"embeddings": [[]], "data": [{"index": 0, "embedding": []}]},
        {"embeddings": [[math.nan, 1]], "data": [{"index": 0, "embedding": [math.inf]}]},
        {"embeddings": [[1], [2]], "data": [{"index": 5, "embedding": [1]}]},
    ],
    ids=range(13),
)
@pytest.mark.parametrize("kind", ["ollama", "openai"])
def test_a_wrong_answer_is_told_and_not_believed(server, kind, answer):
    server.answer = answer
    with pytest.raises(Misconfigured):
        server.embedder(kind).embed(["boat"])


def test_vectors_of_another_length_are_refused(server):
    embedder = server.embedder("ollama")
    embedder.embed(["boat"])
    server.answer = {"embeddings": [[1.0, 2.0]]}
    with pytest.raises(Misconfigured, match="2 numbers for a text, and 4 before"):
        embedder.embed(["boat"])


def test_a_slow_server_costs_no_more_than_the_deadline(server):
    server.delay = 1.0
    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"0\.2 s"):
        server.embedder(deadline=0.2).embed(["boat"])
    assert time.monotonic() - begun < 0.8


def test_a_trickling_server_costs_no_more_than_the_deadline(server):
    server.trickle = True
    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        server.embedder(deadline=0.3).embed(["boat"] * 20)
    assert time.monotonic() - begun < 1.2


def test_nobody_there_is_unavailable(server):
    embedder = server.embedder()
    server.close()
    with pytest.raises(Unavailable, match="cannot be reached"):
        embedder.embed(["boat"])


@pytest.mark.parametrize(
    "options",
    [
        {"url": "ftp://somewhere"},
        {"url": "http://"},
        {"url": "http://me:secret@somewhere"},
        {"key": "two\nlines"},
        {"deadline": 0},
        {"deadline": math.nan},
    ],
)
def test_a_wrong_option_is_told(options):
    with pytest.raises(InvalidArgument) as told:
        OpenAIEmbedder("small", **options)
    assert "secret" not in str(told.value)


# --- functions ------------------------------------------------------------------------------------


def test_any_function_will_do():
    for give in (list, np.array, tuple, lambda rows: np.array(rows, dtype=np.float16)):
        embedder = embedder_from(lambda texts, give=give: give([meant(text) for text in texts]))
        assert embedder.embed(["boat", "", "cloud"])[:, 0] == pytest.approx([2 / math.sqrt(5), 0, 0], abs=1e-3)
        assert embedder.dimensions == 4


def test_a_function_is_told_apart_by_its_name():
    assert FunctionEmbedder(meant).name == f"function:{meant.__module__}.meant"
    assert identity(embedder_from(lambda texts: [[1.0]] * len(texts), name="mine")) == "mine/1"


@pytest.mark.parametrize(
    "given", [None, 5, [[1.0]], [[1.0], [2.0, 3.0]], [[1.0], ["x"]], [[math.nan], [1.0]], [[[1.0]], [[2.0]]], [[], []]]
)
def test_what_a_function_gives_is_checked(given):
    with pytest.raises(Misconfigured, match="function:"):
        FunctionEmbedder(lambda texts: given).embed(["boat", "apple"])


def test_huge_and_tiny_numbers_keep_their_direction():
    rows = FunctionEmbedder(lambda texts: [[1e300, 1e300], [1e-300, 0]]).embed(["boat", "apple"])
    assert rows == pytest.approx(np.array([[math.sqrt(0.5)] * 2, [1, 0]]), abs=1e-6)


def test_a_function_that_fails_is_away():
    with pytest.raises(Unavailable, match="ZeroDivisionError"):
        FunctionEmbedder(lambda texts: 1 / 0).embed(["boat"])


# --- by name --------------------------------------------------------------------------------------


def test_embedders_by_name(tmp_path, monkeypatch):
    assert embedder_from(None) is embedder_from("none") is None
    assert isinstance(embedder_from(), StaticEmbedder)
    assert isinstance(embedder_from("static"), StaticEmbedder)
    assert isinstance(embedder_from("ollama:nomic", url="http://localhost:1"), OllamaEmbedder)
    assert embedder_from("ollama:nomic:v1.5").name == "ollama:nomic:v1.5"
    assert isinstance(embedder_from("openai:small", key=KEY), OpenAIEmbedder)
    assert embedder_from("sentence-transformers:tiny").name == "sentence-transformers:tiny"
    mine = StaticEmbedder()
    assert embedder_from(mine) is mine
    monkeypatch.setenv("REMANENCE_MODELS", str(tmp_path))
    with pytest.raises(Misconfigured, match="remanence model fetch minilm"):
        embedder_from("minilm")
    (tmp_path / "minilm").mkdir()
    for name in ("model.safetensors", "vocab.txt"):
        (tmp_path / "minilm" / name).touch()
    assert isinstance(embedder_from("minilm"), MiniLMEmbedder)


@pytest.mark.parametrize("spec", ["", "best", "ollama", "ollama:", "static:x", "minilm:big", 5, "none:"])
def test_a_wrong_name_is_told(spec):
    with pytest.raises(InvalidArgument):
        embedder_from(spec)


@pytest.mark.parametrize("spec", ["static", "ollama:nomic"])
def test_options_that_mean_nothing_are_told(spec):
    with pytest.raises(InvalidArgument, match="option"):
        embedder_from(spec, colour="red")


def test_a_package_that_is_missing_is_told():
    embedder = embedder_from("sentence-transformers:tiny")
    try:
        import sentence_transformers  # noqa: F401 - it is what is asked
    except ImportError:
        with pytest.raises(Misconfigured, match="pip install"):
            embedder.embed(["boat"])


def test_sentence_transformers_embeds(tmp_path):
    package = pytest.importorskip("sentence_transformers")
    words = package.models.WordEmbeddings(
        tokenizer=package.models.tokenizer.WhitespaceTokenizer(TOPICS, stop_words=[]),
        embedding_weights=np.eye(4)[1:],
    )
    package.SentenceTransformer(modules=[words, package.models.Pooling(4)]).save(str(tmp_path))
    embedder = embedder_from(f"sentence-transformers:{tmp_path}")
    near = embedder.embed(["boat", "boat boat", "apple"])
    assert near[0] @ near[1] == pytest.approx(1, abs=1e-5)
    assert near[0] @ near[2] < 0.5


# --- an index while the embedder is away ----------------------------------------------------------


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def indexed(embedder, path=":memory:"):
    index = SQLiteIndex(str(path), embedder, lambda: 0.0)
    clock = Clock()
    index._meaning._clock = clock
    return index, clock


def found(index, query, **options):
    return [hit.id for hit in index.search(query, **options)]


@pytest.mark.parametrize("known", [None, 4])
def test_what_is_put_while_it_is_away_is_found_by_words_and_embedded_later(server, tmp_path, known):
    held = {"a": Document(id="a", text="a boat on the river"), "b": Document(id="b", text="an apple")}
    server.codes = [503] * 99
    index, clock = indexed(server.embedder(dimensions=known), tmp_path / "search.sqlite")
    index.put([held["a"]])
    assert isinstance(index.away, Unavailable)
    assert found(index, "river") == ["a"]
    assert found(index, "river", mode="keyword") == ["a"]
    with pytest.raises(Unavailable):
        found(index, "river", mode="semantic")
    with pytest.raises(Unavailable):
        list(index.reembed(lambda ids: held))
    assert len(index) == 1
    server.codes = []
    clock.now += meaning.LONGEST_PAUSE
    index.put([held["b"]])
    assert index.away is None
    assert found(index, "boat", mode="semantic") == ["b"]
    assert list(index.reembed(lambda ids: held)) == [(1, 0)]
    assert found(index, "boat", mode="semantic") == ["a", "b"]
    assert found(index, "river boat")[0] == "a"


def test_a_search_pays_the_deadline_once(server):
    index, clock = indexed(server.embedder(deadline=0.3))
    index.put([Document(id="a", text="boat")])
    asked = len(server.requests)
    server.delay = 1.0
    begun = time.monotonic()
    for _ in range(5):
        assert found(index, "boat") == ["a"]
        index.put([Document(id="b", text="apple")])
    assert time.monotonic() - begun < 1.5
    assert len(server.requests) == asked + 1
    clock.now += meaning.FIRST_PAUSE
    found(index, "boat")
    assert len(server.requests) == asked + 2
    clock.now += meaning.FIRST_PAUSE  # it failed again: now the pause is longer
    found(index, "boat")
    assert len(server.requests) == asked + 2


@pytest.mark.parametrize("known", [None, 4])
def test_a_refusal_loses_no_memory_either(server, known):
    index, _ = indexed(server.embedder(dimensions=known))
    server.codes = [401] * 9
    index.put([Document(id="a", text="boat")])
    assert found(index, "boat") == ["a"]
    assert isinstance(index.away, Misconfigured)
    with pytest.raises(Misconfigured, match="key"):
        found(index, "boat", mode="semantic")


def test_a_keyword_search_asks_nobody(server):
    index, _ = indexed(server.embedder())
    server.codes = [503] * 9
    assert found(index, "boat", mode="keyword") == []
    assert len(index) == 0
    assert server.requests == []


def test_nobody_waits_for_an_embedder(server):
    index, _ = indexed(server.embedder())
    index._mutex = threading.Lock()
    index.put([Document(id="a", text="boat")])
    server.delay = 1.0
    slow = threading.Thread(target=index.put, args=([Document(id="b", text="apple")],))
    slow.start()
    time.sleep(0.2)
    begun = time.monotonic()
    assert not index._mutex.locked()
    assert time.monotonic() - begun < 0.5
    slow.join()
    assert len(index) == 2


def test_retries_are_bounded():
    assert http.ATTEMPTS <= 5
