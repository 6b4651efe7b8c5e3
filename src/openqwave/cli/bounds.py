"""Numbers on the command line that have bounds."""

import typer


def check_range(number: float, least: float, most: float) -> float:
    """The number, if it is within its bounds.

    Raises:
        typer.BadParameter: It is not.
    """
    # Not by the parser's own bounds, which let "nan" pass.
    if not least <= number <= most:
        raise typer.BadParameter(f"{number:g} is not from {least:g} to {most:g}.")
    return number
