"""Comparisons for the worker process, which imports this module by name: light, without pytest."""

ENDLESS = "endless"
FIFO = "running.fifo"


def equal_text(a: str, b: str) -> bool:
    """Compares as text; `ENDLESS` hangs in C code, where no Python signal handler runs, and "broken" raises.

    A `b` that is the path of a `FIFO` tells its reader that the comparison runs.
    """
    if b.endswith(FIFO):
        open(b, "w").close()  # returns when the test reads: now it knows that the comparison runs
    if ENDLESS in (a, b):
        return sum(range(10**15)) == 0
    if "broken" in (a, b):
        raise ArithmeticError("not an answer")
    return a == b


def nothing() -> None:
    """A start of the worker without sympy."""
