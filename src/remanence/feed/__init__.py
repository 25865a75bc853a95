"""What others change: the reader of the change log, and whoever in this process wants to hear of it."""
