"""What the ``flamewell`` command reports instead of a traceback.

    CommandError                exit status 1: it was asked rightly and could not be done
    └── UsageError              exit status 2: asked wrongly, or the installation lacks a part

Messages are shown to the user as they are: each says what is wrong and what to do.
"""

from __future__ import annotations


class CommandError(Exception):
    """A command could not be carried out."""

    exit_status = 1


class UsageError(CommandError):
    """The command line, or what is installed, does not allow it."""

    exit_status = 2
