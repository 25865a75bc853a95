-- The journal of one process: what it wrote, in order, until the server surely has it.

CREATE TABLE IF NOT EXISTS meta (
    name  TEXT PRIMARY KEY,
    value ANY
) STRICT, WITHOUT ROWID;

-- One history of this file. Its write number s is row number first + s - 1, so that rows of all
-- lineages follow each other without a gap.
CREATE TABLE IF NOT EXISTS lineages (
    name      TEXT PRIMARY KEY,
    first     INTEGER NOT NULL,            -- row number of write 1
    count     INTEGER,                     -- writes it has; NULL: the active one, which still grows
    acked     INTEGER NOT NULL DEFAULT 0,  -- writes the server has, as far as this file knows
    pruned    INTEGER NOT NULL DEFAULT 0,  -- writes no longer kept here
    pruned_id TEXT NOT NULL DEFAULT '',    -- operation id of the last of them
    boot_id   TEXT NOT NULL DEFAULT '',
    print     TEXT NOT NULL DEFAULT ''     -- fingerprint of machine, start and file
) STRICT;

CREATE TABLE IF NOT EXISTS rows (
    n     INTEGER PRIMARY KEY,
    op_id TEXT NOT NULL,
    hlc   INTEGER NOT NULL,
    key   TEXT NOT NULL,
    write BLOB NOT NULL,
    wall  REAL NOT NULL,                   -- seconds since the epoch, as the machine believed
    boot  REAL NOT NULL,                   -- seconds since the machine started
    blind INTEGER NOT NULL                 -- 1: replaces the whole record, whatever it was
) STRICT;

-- Which rows concern a key: filled only when somebody asks, so that a write pays for one table alone.
CREATE TABLE IF NOT EXISTS by_key (
    key TEXT NOT NULL,
    n   INTEGER NOT NULL,
    PRIMARY KEY (key, n)
) STRICT, WITHOUT ROWID;

-- Writes without effect: conflict, stale, rejected, and those that can never be applied (dead).
CREATE TABLE IF NOT EXISTS outcomes (
    n      INTEGER PRIMARY KEY,
    op_id  TEXT NOT NULL,
    key    TEXT NOT NULL,
    kind   TEXT NOT NULL,
    reason TEXT NOT NULL,
    write  BLOB NOT NULL,
    wall   REAL NOT NULL
) STRICT;

-- What the server last said of a record or list, for reads while it is away.
CREATE TABLE IF NOT EXISTS known (
    key     TEXT PRIMARY KEY,
    n       INTEGER NOT NULL,              -- rows of the key up to this one are in it
    entry   BLOB NOT NULL,
    expires REAL,                          -- wall seconds, NULL: not known to expire
    wall    REAL NOT NULL                  -- when the server said so
) STRICT, WITHOUT ROWID;
