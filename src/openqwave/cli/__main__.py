"""`python -m openqwave.cli`: the command without its script."""

from openqwave.cli.main import run

if __name__ == "__main__":
    run()
