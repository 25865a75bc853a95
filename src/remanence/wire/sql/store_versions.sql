-- Earlier versions of documents, the newest with the highest id; without a body, the delete that ended one.
-- Beside store.sql since files were made without it: a version of the library that knows no versions passes it over.

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
