"""One question to an HTTP server that answers in JSON: its deadline, bounded retries, and clear errors."""

import json
import random
import time
from http.client import HTTPException
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from remanence.errors import DeadlineExceeded, InvalidArgument, Misconfigured, Unavailable

ATTEMPTS: Final = 3
MOST_BYTES: Final = 256 << 20
_BLOCK: Final = 1 << 16
_PAUSE: Final = 0.1
_BUSY: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class _Stay(HTTPRedirectHandler):
    """A redirect is an error: the key would go along, to whoever it names."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Endpoint:
    """Where to ask. The key is sent and never shown."""

    def __init__(self, url: str, *, deadline: float, key: str | None = None, hint: str = "") -> None:
        """`deadline` is in seconds, for one question with its retries. `hint` says what to do where a model is unknown.

        Raises `InvalidArgument` for what is no HTTP address, or no deadline.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidArgument("the address of an embedder begins with http:// or https:// and a host")
        if parts.username or parts.password:
            raise InvalidArgument("the address of an embedder must not hold a password: give the key apart")
        if not 0 < deadline < 86_400:
            raise InvalidArgument("the deadline of an embedder is a number of seconds above zero")
        if key is not None and not (key.isascii() and key.isprintable()):
            raise InvalidArgument("the key of an embedder has a character that HTTP cannot send, such as a line's end")
        self._url = url
        self._place = f"{parts.scheme}://{parts.netloc}"
        self._deadline = deadline
        self._headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "remanence"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._hint = hint
        self._opener = build_opener(_Stay)

    def __repr__(self) -> str:
        return f"Endpoint({self._place!r})"

    def ask(self, body: Any) -> Any:
        """The answer to a POST of `body`, decoded.

        Raises `Unavailable` where the server is away or busy, `DeadlineExceeded` where it takes too long, and
        `Misconfigured` where it refuses or answers with something else.
        """
        ends = time.monotonic() + self._deadline
        sent = json.dumps(body).encode()
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._decoded(self._once(sent, ends))
            except Unavailable:
                pause = _PAUSE * 2**attempt * (0.5 + random.random() / 2)  # noqa: S311 - spreads retries
                if attempt == ATTEMPTS or time.monotonic() + pause >= ends:  # as it is past a deadline
                    raise
                time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def _once(self, sent: bytes, ends: float) -> bytes:
        request = Request(self._url, sent, self._headers, method="POST")  # noqa: S310 - its scheme was checked
        try:
            with self._opener.open(request, timeout=max(ends - time.monotonic(), 0.001)) as answer:
                return self._read(answer, ends)
        except HTTPError as error:
            with error:
                raise self._refused(error.code) from None  # its cause would show the request, and the key in it
        except TimeoutError as error:
            raise self._late() from error
        except (URLError, OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                raise self._late() from error
            raise Unavailable(
                f"the embedder at {self._place} cannot be reached ({type(reason).__name__}): is it running, "
                "and is the address right?"
            ) from error

    def _read(self, answer: Any, ends: float) -> bytes:
        body = bytearray()
        while block := answer.read1(_BLOCK):
            body += block
            if time.monotonic() > ends:
                raise self._late()
            if len(body) > MOST_BYTES:
                raise Misconfigured(f"the embedder at {self._place} answers without end: lower the batch")
        return bytes(body)

    def _decoded(self, body: bytes) -> Any:
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise Misconfigured(
                f"what is at {self._place} answers with something other than JSON: no embedder"
            ) from None

    def _late(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"the embedder at {self._place} took longer than {self._deadline:g} s (its deadline)")

    def _refused(self, code: int) -> Unavailable | Misconfigured:
        if code in _BUSY:
            return Unavailable(
                f"the embedder at {self._place} is busy or broken (HTTP {code}): it is asked again later"
            )
        if code in (401, 403):
            return Misconfigured(
                f"the embedder at {self._place} refuses the key (HTTP {code}): give one that may embed"
            )
        advice = f": {self._hint}" if self._hint else ": check its address and the model's name"
        return Misconfigured(f"the embedder at {self._place} refuses the request (HTTP {code}){advice}")
