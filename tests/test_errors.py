"""Every error of ours is one family, so that the command line can tell a user's mistake from a defect."""

import inspect

from phasor import errors
from phasor.errors import PhasorError


def test_every_error_is_a_phasor_error_with_a_docstring() -> None:
    found = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    assert len(found) >= 8
    for kind in found:
        assert issubclass(kind, PhasorError)
        assert inspect.getdoc(kind)
