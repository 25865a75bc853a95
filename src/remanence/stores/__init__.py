"""Places that keep records, and the resilient way to reach them."""
