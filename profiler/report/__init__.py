"""The report: which plan to run within a deadline, what the usual advice would have cost, and the data behind it."""


class ReportError(ValueError):
    """The report cannot be made; the message says what to change."""
