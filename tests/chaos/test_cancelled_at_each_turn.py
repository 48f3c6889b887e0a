"""For ``make chaos``: what tests/test_cancelled_anywhere.py does at some turns of the event loop, at every one."""

from tests.test_cancelled_anywhere import _memory, test_nothing_is_lost_at_whichever_turn_it_is_cancelled

__all__ = ["_memory", "test_nothing_is_lost_at_whichever_turn_it_is_cancelled"]
