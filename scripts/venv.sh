#!/bin/sh
# Makes .venv beside the Makefile and installs openqwave there, editable, with the extras
# named as the first argument (for instance "cli,plot"). Run again, it brings it up to date.
set -eu

extras=$1
python=${PYTHON:-python3}

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "openqwave needs Python 3.11 or later; '$python' is $("$python" --version 2>&1)." >&2
    echo "Name another with: make PYTHON=python3.12 ..." >&2
    exit 2
fi

if ! [ -x .venv/bin/pip ]; then
    # Debian and Ubuntu keep what a virtual environment needs in a package of its own.
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
            apt-get update -qq
            apt-get install -qq -y --no-install-recommends python3-venv
        else
            echo "'$python' cannot make virtual environments: install python3-venv" >&2
            echo "(sudo apt install python3-venv) and try again." >&2
            exit 2
        fi
    fi
    "$python" -m venv .venv
fi

echo "Installing openqwave[$extras] into .venv ..."
.venv/bin/pip install --quiet --disable-pip-version-check --editable ".[$extras]"
