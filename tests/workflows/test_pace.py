"""What people are told of a transfer: how quick it is, how long it still takes, what compression makes of it."""

from dumont.agent import Progress
from dumont.hibernation.progress import Pace


def test_a_pace_is_told_once_it_is_sure_and_begins_anew_with_a_phase() -> None:
    """Nothing is guessed: unknown in the first second, without a total, and before anything was stored."""
    pace = Pace()
    unknown = {"bytes_second": None, "seconds_left": None, "ratio": None}
    assert pace.take(Progress("save", 100, 1000, 1), 10.0) == unknown
    assert pace.take(Progress("save", 200, 1000, 1), 10.5) == unknown
    told = pace.take(Progress("save", 500, 1000, 2, bytes_new=300, bytes_stored=200), 12.0)
    assert told == {"bytes_second": 200, "seconds_left": 2.5, "ratio": 1.5}
    assert pace.take(Progress("save", 900, None, 2), 14.0) == {**unknown, "bytes_second": 200}
    assert pace.take(Progress("verify", 10, 1000, 2), 15.0) == unknown
    assert pace.take(Progress("verify", 1010, 1000, 2), 17.0) == {**unknown, "bytes_second": 500, "seconds_left": 0.0}
