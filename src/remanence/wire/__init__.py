"""What travels and what lies on disk: codec, key names, the Redis and the SQLite seams."""
