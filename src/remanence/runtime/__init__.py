"""The ways to wait: blocking threads, asyncio, and simulated time."""
