"""The shared server, for what a chart says about one."""

from tests.serving.conftest import bundle, index, server

__all__ = ["bundle", "index", "server"]
