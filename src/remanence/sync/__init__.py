"""The blocking faces."""
