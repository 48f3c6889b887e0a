"""What netra_queue decides, without doing anything: no Django, Channels, asyncio, clock or logging in here."""
