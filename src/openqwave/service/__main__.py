"""``python -m openqwave.service`` is `qwaved`."""

import sys

from openqwave.service.daemon import run

if __name__ == "__main__":
    sys.exit(run())
