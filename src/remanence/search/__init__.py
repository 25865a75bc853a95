"""Finding memories again by word and by meaning: an index, what it is asked, and how texts become vectors."""
