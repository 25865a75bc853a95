"""What opens and closes everything: one engine per process and deployment, shared by its faces."""

from remanence.engine.engines import AsyncEngine, BlockingEngine
from remanence.engine.opening import Engine, journal_folder
from remanence.engine.sharing import released, shared_async, shared_blocking

__all__ = ["AsyncEngine", "BlockingEngine", "Engine", "journal_folder", "released", "shared_async", "shared_blocking"]
