"""Tending what agents remember: duplicates merged, patterns learned, what is useless forgotten; and a report on it."""
