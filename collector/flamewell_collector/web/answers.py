"""How answers are written: JSON by orjson (NumPy arrays as they are), compressed, or a file."""

from __future__ import annotations

from http.client import OK
from typing import Any, Final

import orjson
from flask import Response, request

from flamewell_collector.gzipping import gzip_bytes

JSON: Final = "application/json"
_COMPRESS_FROM_BYTES: Final = 4_096
_COMPRESSED: Final = (JSON, "text/", "image/svg+xml")


def json_answer(payload: Any, status: int = 200) -> Response:
    """Answer with JSON."""
    body = orjson.dumps(payload, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
    return Response(body, status, content_type=JSON)


def file_answer(body: bytes, *, content_type: str, name: str) -> Response:
    """Answer with a file to save; the name must be of letters, digits, dots and dashes."""
    answer = Response(body, content_type=content_type)
    answer.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return answer


def compressed(answer: Response) -> Response:
    """Compress an answer with gzip where it is worth it and the client takes it."""
    answer.vary.add("Accept-Encoding")
    if request.endpoint == "static" and request.method == "GET" and answer.status_code == OK:
        # The page's own files: small and known, so they are read whole.
        answer.direct_passthrough = False
        answer.make_sequence()
    if (
        answer.direct_passthrough
        or answer.is_streamed
        or "Content-Encoding" in answer.headers
        or not (answer.content_type or "").startswith(_COMPRESSED)
        or request.accept_encodings.quality("gzip") <= 0
    ):
        return answer
    body = answer.get_data()
    if len(body) >= _COMPRESS_FROM_BYTES:
        answer.set_data(gzip_bytes(body))
        answer.headers["Content-Encoding"] = "gzip"
    return answer
