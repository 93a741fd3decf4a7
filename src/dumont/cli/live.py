"""Show the same thing again and again until the reader has seen enough."""

import sys
import time
from collections.abc import Callable

_HOME_AND_CLEAR = "\x1b[H\x1b[2J"


def again_and_again(draw: Callable[[], None], seconds: float) -> None:
    """Draw at once and then every so many seconds, until Ctrl-C; a terminal is cleared before each time."""
    try:
        while True:
            if sys.stdout.isatty():
                sys.stdout.write(_HOME_AND_CLEAR)
            draw()
            sys.stdout.flush()
            time.sleep(seconds)
    except KeyboardInterrupt:
        return
