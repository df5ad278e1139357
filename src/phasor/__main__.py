"""The `phasor` command; `python -m phasor` is the same program."""

import sys
from typing import NoReturn

from phasor.standby import delegate


def run() -> NoReturn:
    """Let the process that stands by do the work, if there is one, or do it here."""
    code = delegate(sys.argv[1:])
    if code is None:
        from phasor.cli import main

        code = main()
    raise SystemExit(code)


if __name__ == "__main__":
    run()
