-- What came to the shared file after its first format: its second one.
UPDATE about SET value = '2' WHERE name = 'schema';

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

-- Earlier versions of documents, the newest with the highest id; without a body, the delete that ended one.
CREATE TABLE IF NOT EXISTS versions (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    etag TEXT NOT NULL,
    hlc INTEGER NOT NULL,
    body BLOB,
    expires_at INTEGER
);
CREATE INDEX IF NOT EXISTS versions_key ON versions (key, id);
CREATE INDEX IF NOT EXISTS versions_expiry ON versions (expires_at) WHERE expires_at IS NOT NULL;
