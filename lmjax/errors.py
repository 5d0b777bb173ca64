"""The one exception that a user may see: a single line that names what is wrong, where, and the mend."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input, bad config, a missing file or no network. The command line prints its one line and exits with code
    2."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns `"; did you mean 'x'?"` for the closest known word, or the list of known words when none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(known)}"
