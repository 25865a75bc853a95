"""Looking for secrets in what is remembered, by detect-secrets (the extra `audit`): the only place that imports it.

Its detectors are asked for what they match, never to verify it: that would send the secret to somebody's server.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

Detector = Callable[[str], bool]
INSTALL: Final = "pip install 'remanence[audit]'"
LONGEST: Final = 10_000
"""Characters of a line that are looked at."""
_NOISY: Final = {"Base64HighEntropyString", "HexHighEntropyString", "IPPublicDetector"}
"""In prose these find ids, digests and addresses, which are no secrets."""


def detectors() -> Mapping[str, Detector] | None:
    """Each kind of secret with what recognises it; None where detect-secrets is not installed."""
    try:
        from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
        from detect_secrets.plugins.keyword import DENYLIST, REGEX_BY_FILETYPE, KeywordDetector
        from detect_secrets.util.filetype import FileType
    except ImportError:
        return None
    # as in a settings file, where the secret needs no quotes around it
    spelled = {"denylist_regex_to_group": REGEX_BY_FILETYPE[FileType.CONFIG]}
    plugins: dict[str, Any] = get_mapping_from_secret_type_to_class()
    found: dict[str, Detector] = {}
    for kind, cls in plugins.items():
        if cls.__name__ not in _NOISY:
            found[kind] = _matcher(cls(), {})
    hints = re.compile("|".join(DENYLIST), re.IGNORECASE)  # its own expressions take 160 µs a line
    by_name = _matcher(KeywordDetector(), spelled)
    return {**found, KeywordDetector.secret_type: lambda line: bool(hints.search(line)) and by_name(line)}


def _matcher(plugin: Any, options: Mapping[str, Any]) -> Detector:
    return lambda line: any(plugin.analyze_string(line, **options))


def texts(value: Any) -> Iterator[str]:
    """Every text in a plain value, at any depth."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, dict):
            waiting += [*each.values(), *(f"{key}={item}" for key, item in each.items() if isinstance(item, str))]
        elif isinstance(each, list | tuple):
            waiting += each


def kinds(text: str, found_by: Mapping[str, Detector]) -> set[str]:
    """The kinds of secrets in a text."""
    lines = [line[:LONGEST] for line in text.splitlines() if line.strip()]
    return {kind for kind, finds in found_by.items() if any(map(finds, lines))}
