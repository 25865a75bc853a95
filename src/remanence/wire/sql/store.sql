-- One file as the store that several processes share. Times are wall clock milliseconds, NULL for ever.
-- A key is in `documents` or in `lists`, never in both; what has expired is dead wherever it still lies.

CREATE TABLE about (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
INSERT INTO about VALUES ('schema', '1');

CREATE TABLE documents (
    key TEXT PRIMARY KEY,
    etag TEXT NOT NULL,
    hlc INTEGER NOT NULL,
    body BLOB NOT NULL,
    expires_at INTEGER
);
CREATE INDEX documents_expiry ON documents (expires_at) WHERE expires_at IS NOT NULL;

-- Items `first` to `last`; without a key, a list that was removed and whose items are being deleted.
CREATE TABLE lists (
    id INTEGER PRIMARY KEY,
    key TEXT UNIQUE,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    expires_at INTEGER
);
CREATE INDEX lists_expiry ON lists (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE items (
    list INTEGER NOT NULL,
    position INTEGER NOT NULL,
    item BLOB NOT NULL,
    PRIMARY KEY (list, position)
) WITHOUT ROWID;

CREATE TABLE tombstones (
    key TEXT PRIMARY KEY,
    etag TEXT NOT NULL,
    hlc INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX tombstones_expiry ON tombstones (expires_at);

-- `results` are those of the last batch, which began at `results_from`, joined by commas; '' for all ok.
CREATE TABLE watermarks (
    lineage TEXT PRIMARY KEY,
    nonce TEXT NOT NULL,
    seq INTEGER NOT NULL,
    op_id TEXT NOT NULL,
    results_from INTEGER NOT NULL,
    results TEXT NOT NULL,
    highest INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX watermarks_expiry ON watermarks (expires_at);

CREATE TABLE changes (
    id INTEGER PRIMARY KEY,
    lineage TEXT NOT NULL,
    seq INTEGER NOT NULL,
    op_id TEXT NOT NULL,
    key TEXT NOT NULL,
    kind TEXT NOT NULL,
    result TEXT NOT NULL
);
