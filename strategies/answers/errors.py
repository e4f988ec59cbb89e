"""What can go wrong when two answers are compared."""


class Undecided(Exception):
    """The slow comparison gave no verdict; whoever asked takes the answers as different."""


class Overloaded(Undecided):
    """Too many comparisons wait already."""


class OutOfTime(Undecided):
    """The comparison did not end within its limit; its worker was killed."""


class Closed(Undecided):
    """The pool was closed before the comparison ended."""
