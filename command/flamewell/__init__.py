"""The small ``flamewell`` command: starts a node's worth of flamewell, and reads from a URL."""

__version__ = "0.1.0"
