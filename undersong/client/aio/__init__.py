"""The client for asyncio programs, by area."""
