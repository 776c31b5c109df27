"""``python -m flamewell_agent``."""

import sys

from flamewell_agent.cli import main

sys.exit(main())
