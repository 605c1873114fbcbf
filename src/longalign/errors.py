"""Errors that are the user's to mend, not the program's to explain with a traceback."""

from __future__ import annotations


class LongalignError(ValueError):
    """Wrong input, with a message that says what is wrong and what to do.

    The command line prints it as one line and exits with status 2.
    """
