"""``python -m flamewell`` is the ``flamewell`` command."""

from __future__ import annotations

import sys

from flamewell.cli import main

if __name__ == "__main__":
    sys.exit(main())
