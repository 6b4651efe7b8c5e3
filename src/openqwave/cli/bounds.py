"""What is named on the command line and has bounds, or a form."""

from ipaddress import ip_network

import typer

# A measurement that is shorter has no samples. A day: who means for ever leaves it out.
SHORTEST_RUN_S, LONGEST_RUN_S = 0.3, 86_400.0
# Looking more often costs the service more than it shows; a day is as good as never.
SHORTEST_INTERVAL_S, LONGEST_INTERVAL_S = 0.1, 86_400.0


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


def check_seconds(seconds: float | None) -> float | None:
    """An interval or a length of looking, if it is within its bounds.

    Raises:
        typer.BadParameter: It is not from `SHORTEST_INTERVAL_S` to `LONGEST_INTERVAL_S`.
    """
    if seconds is None:
        return None
    return check_range(seconds, SHORTEST_INTERVAL_S, LONGEST_INTERVAL_S)


def check_network(network: str) -> str:
    """An address, or a network in CIDR notation.

    Raises:
        typer.BadParameter: It is neither.
    """
    try:
        ip_network(network, strict=False)
    except ValueError as error:
        raise typer.BadParameter(f"{error}.") from error
    return network
