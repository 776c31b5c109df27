"""Values of command lines, as argparse asks for them. Pure."""

from __future__ import annotations

import argparse

_DIGITS = 9


def positive(text: str) -> int:
    """Read a whole number from 1; digits beyond the ninth do not count.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    if not (text.isascii() and text.isdecimal()) or int(text[:_DIGITS]) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive whole number")
    return int(text[:_DIGITS])
