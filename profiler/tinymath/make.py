"""Make the built-in family on one GPU: python -m profiler.tinymath.make --out DIR --minutes 12

Needs the `train` extra (torch, transformers). Each part is written to DIR when it is finished and skipped when it is
there, so a run that was cut off, or stopped with --until, goes on when the command is given again. Schedules follow the
wall clock, so two runs never give quite the same weights.
"""

from collections.abc import Sequence

from profiler.tinymath.make_recipe import parse_recipe


def main(arguments: Sequence[str] | None = None) -> None:
    recipe = parse_recipe(arguments)
    # Imported here: the processes that build the data import this module, and are to start without torch.
    from profiler.tinymath.make_parts import Maker

    Maker(recipe).make()


if __name__ == "__main__":
    main()
