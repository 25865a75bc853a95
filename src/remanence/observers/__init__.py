"""Who hears events: one sink per file."""
