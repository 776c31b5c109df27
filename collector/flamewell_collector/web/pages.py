"""The page: one template, its parts under /static."""

from __future__ import annotations

from flask import Blueprint, Response, make_response, render_template

from flamewell_collector import __version__


def pages_blueprint() -> Blueprint:
    """Make the door; templates and static files belong to the app."""
    blueprint = Blueprint("pages", __name__)

    @blueprint.get("/")
    def index() -> Response:
        return make_response(render_template("index.html", version=__version__))

    return blueprint
