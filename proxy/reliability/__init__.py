"""What keeps answers coming while backends fail or requests are too many. See docs/operations/reliability.md."""
