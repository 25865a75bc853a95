-- What the store has of one namespace, as far as the change log was followed. Times are wall clock milliseconds,
-- NULL for ever. `documents`, `lists` and `items` are those of the shared file, read by the same statements.

CREATE TABLE IF NOT EXISTS documents (
    key TEXT PRIMARY KEY,
    etag TEXT NOT NULL,
    hlc INTEGER NOT NULL,
    body BLOB NOT NULL,
    expires_at INTEGER
);

CREATE TABLE IF NOT EXISTS lists (
    id INTEGER PRIMARY KEY,
    key TEXT UNIQUE,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    expires_at INTEGER
);

CREATE TABLE IF NOT EXISTS items (
    list INTEGER NOT NULL,
    position INTEGER NOT NULL,
    item BLOB NOT NULL,
    PRIMARY KEY (list, position)
) WITHOUT ROWID;

-- What is kept of each key: its bytes; the row of the journal `journal` up to which it is exact; and for the choice
-- of what to let go, when it last changed or was used (seconds), and how often.
CREATE TABLE IF NOT EXISTS kept (
    key     TEXT PRIMARY KEY,
    size    INTEGER NOT NULL,
    journal TEXT NOT NULL,
    n       INTEGER NOT NULL,
    changed REAL NOT NULL,
    used    REAL NOT NULL,
    uses    INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS facts (
    name  TEXT PRIMARY KEY,
    value ANY
) WITHOUT ROWID;
