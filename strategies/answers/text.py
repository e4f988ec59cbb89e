"""Free text as others compare it."""

MOST_CHARS = 8192
"""Of an answer, when a model judges or embeds it."""
