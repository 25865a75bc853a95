"""The asyncio faces."""
