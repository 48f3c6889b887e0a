"""The same fixtures as for the other tests on real servers."""

from tests.server.conftest import make_world, own_redis

__all__ = ["make_world", "own_redis"]
