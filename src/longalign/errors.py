"""Errors caused by user input, and interruptions; the command line shows them without a traceback."""

from __future__ import annotations


class LongalignError(ValueError):
    """Wrong input, with a message that says what is wrong and what to do.

    The command line prints it as one line and exits with status 2.
    """


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during long work, after what was done so far has been written.

    The message says what is kept and how to go on. The command line prints it and exits with status 130.
    """
