"""Numbers on the command line that have bounds."""

import typer

# A measurement that is shorter has no samples. A day: who means for ever leaves it out.
SHORTEST_RUN_S, LONGEST_RUN_S = 0.3, 86_400.0


def check_range(number: float, least: float, most: float) -> float:
    """The number, if it is within its bounds.

    Raises:
        typer.BadParameter: It is not.
    """
    # Not by the parser's own bounds, which let "nan" pass.
    if not least <= number <= most:
        raise typer.BadParameter(f"{number:g} is not from {least:g} to {most:g}.")
    return number


def check_run_seconds(seconds: float | None) -> float | None:
    """How long something is to go on, if it is within `SHORTEST_RUN_S` and `LONGEST_RUN_S`.

    Raises:
        typer.BadParameter: It is not.
    """
    return None if seconds is None else check_range(seconds, SHORTEST_RUN_S, LONGEST_RUN_S)
