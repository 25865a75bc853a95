-- What each word of a piece means where it stands, for embedders that tell: int8, one row of numbers for each word.
-- They lie apart from the pieces, which are read as a whole where these are read for the best of an answer alone.

CREATE TABLE states (
    piece INTEGER PRIMARY KEY,
    embedder INTEGER NOT NULL,
    states BLOB NOT NULL
);
UPDATE about SET value = '2' WHERE name = 'schema';
