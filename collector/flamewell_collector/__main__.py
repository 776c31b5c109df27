"""``python -m flamewell_collector``."""

from __future__ import annotations

import sys

from flamewell_collector.cli import main

if __name__ == "__main__":
    sys.exit(main())
