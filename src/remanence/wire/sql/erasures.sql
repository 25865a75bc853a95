-- What was erased for good, in order, and how far each journal has let go of it.
CREATE TABLE IF NOT EXISTS erasures (
    number INTEGER PRIMARY KEY,
    op_id TEXT NOT NULL UNIQUE,
    hlc INTEGER NOT NULL,
    key TEXT NOT NULL,
    beginning INTEGER NOT NULL
);

CREATE TABLE IF NOT EXISTS holders (
    holder TEXT PRIMARY KEY,
    number INTEGER NOT NULL,
    op_id TEXT NOT NULL,
    expires_at INTEGER NOT NULL
) WITHOUT ROWID;
