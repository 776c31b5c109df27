"""Options of both services: declared once, read from flags, environment and a YAML file."""

from flamewell_settings.loader import Loaded, SettingsError, add_flags, load, render
from flamewell_settings.option import option

__all__ = ["Loaded", "SettingsError", "add_flags", "load", "option", "render"]
