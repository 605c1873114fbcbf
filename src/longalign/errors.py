"""Errors caused by user input; the command line shows them without a traceback."""

from __future__ import annotations


class LongalignError(ValueError):
    """Wrong input, with a message that says what is wrong and what to do.

    The command line prints it as one line and exits with status 2.
    """
