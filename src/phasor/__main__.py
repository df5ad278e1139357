"""`python -m phasor` is the same program as the `phasor` command."""

from phasor.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
