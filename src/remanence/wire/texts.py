"""The SQL and Lua beside this file, as text."""

from functools import cache
from pkgutil import get_data


@cache
def text_of(name: str) -> str:
    """The text of the file `name`, relative to this folder.

    Not through importlib.resources, which imports modules when it is first used: a process that forks just
    then has children in which that import never ends.
    """
    data = get_data(__package__ or "", name)
    assert data is not None  # the loaders of files and archives give data or raise
    return data.decode()
