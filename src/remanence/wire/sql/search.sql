-- The search index: what is needed to find memories, not the memories themselves. Times are seconds since the epoch.

CREATE TABLE about (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
INSERT INTO about VALUES ('schema', '1');

-- What has been embedded with what: vectors of different numbers are never compared.
CREATE TABLE embedders (
    number INTEGER PRIMARY KEY,
    identity TEXT NOT NULL UNIQUE
);

-- `version` grows with each transaction, so that other processes can tell what is new to them.
CREATE TABLE totals (
    version INTEGER NOT NULL,
    pieces INTEGER NOT NULL,
    terms INTEGER NOT NULL
);
INSERT INTO totals VALUES (0, 0, 0);

-- A memory that is put again gets another number: a number's row never changes, except for `version` and what
-- is amended. `tags` is a JSON list.
CREATE TABLE documents (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    version INTEGER NOT NULL,
    kind TEXT NOT NULL,
    session TEXT NOT NULL,
    position INTEGER NOT NULL,
    speaker TEXT NOT NULL,
    role TEXT NOT NULL,
    timed INTEGER NOT NULL,
    agent TEXT NOT NULL,
    tags TEXT NOT NULL,
    success INTEGER,
    importance REAL NOT NULL,
    trust REAL NOT NULL,
    created REAL NOT NULL,
    expires REAL,
    uses INTEGER NOT NULL
);
CREATE INDEX documents_version ON documents (version);
CREATE INDEX documents_expiry ON documents (expires) WHERE expires IS NOT NULL;

-- `terms` is what remanence.search.bm25 packs; `length` counts them. A vector is int8, of the embedder's dimensions.
CREATE TABLE pieces (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    document INTEGER NOT NULL,
    length INTEGER NOT NULL,
    terms BLOB NOT NULL,
    embedder INTEGER,
    vector BLOB
);
CREATE INDEX pieces_document ON pieces (document);

-- Documents that are gone, for processes that still know them; kept for as many versions as KEPT says.
CREATE TABLE gone (
    number INTEGER PRIMARY KEY,
    version INTEGER NOT NULL
);
CREATE INDEX gone_version ON gone (version);
