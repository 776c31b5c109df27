"""Reads request bodies with bounds that hold while they are read and decompressed."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import IO

import zstandard
from werkzeug.exceptions import ClientDisconnected

from flamewell_collector.errors import (
    InvalidRequest,
    LengthRequired,
    RequestTimeout,
    TooLarge,
    UnsupportedMediaType,
)
from flamewell_collector.gzipping import gunzip_parts

_CHUNK_BYTES = 64 << 10
_ZSTD_WINDOW_BYTES = 64 << 20
"""Encoders use 8 MiB (RFC 8878, 3.1.1.1.2), at their best levels up to 32. A frame that asks for a
larger window is refused: memory is bounded before data come."""


def read_body(
    stream: IO[bytes],
    *,
    encoding: str,
    limit_bytes: int,
    length: int | None,
    chunked: bool = False,
    charge: Callable[[int], None] = lambda _size: None,
) -> bytes:
    """Read and decompress a body.

    Args:
        stream: The raw body.
        encoding: Content-Encoding: empty, ``identity``, ``gzip`` or ``zstd``.
        limit_bytes: Of the body, as it comes and decompressed.
        length: Content-Length.
        chunked: Whether the server finds the end of a body without a length.
        charge: Told of each part before it is kept; it may raise.

    Raises:
        LengthRequired: Nothing says where the body ends.
        RequestTimeout: It ended before its length.
        TooLarge: It is larger than the limit; reading stops there.
        UnsupportedMediaType: Another encoding.
        InvalidRequest: It can't be decompressed, or ends too early.
    """
    if encoding not in {"", "identity", "gzip", "zstd"}:
        raise UnsupportedMediaType(
            f"content encoding {encoding!r} is not spoken here: send gzip, zstd or identity"
        )
    if length is None and not chunked:
        raise LengthRequired("the request has no Content-Length")
    if length is not None and length > limit_bytes:
        raise TooLarge(f"the body has {length} bytes, {limit_bytes} are taken")
    try:
        raw = _bounded(_chunks(stream), limit_bytes, charge)
    except ClientDisconnected as error:
        # 408, not werkzeug's 400: senders drop a batch on a 400, and send it again on a 408.
        raise RequestTimeout(f"the body ended before its {length} bytes") from error
    if encoding == "gzip":
        return _bounded(gunzip_parts(raw), limit_bytes, charge)
    if encoding == "zstd":
        return _unzstd(raw, limit_bytes, charge)
    return raw


def _bounded(parts: Iterator[bytes], limit_bytes: int, charge: Callable[[int], None]) -> bytes:
    found: list[bytes] = []
    size = 0
    for part in parts:
        size += len(part)
        if size > limit_bytes:
            raise TooLarge(f"the body is larger than {limit_bytes} bytes: send smaller batches")
        charge(len(part))
        found.append(part)
    return b"".join(found)


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK_BYTES):
        yield chunk


def _unzstd(raw: bytes, limit_bytes: int, charge: Callable[[int], None]) -> bytes:
    """Decompress all frames; a second pass checks that the last one is whole.

    The bounded reader does not notice a body that is cut off, and the object that does has no
    bound: it runs once it is known that little comes out.
    """
    engine = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
    try:
        with engine.stream_reader(io.BytesIO(raw), read_across_frames=True) as reader:
            body = _bounded(_chunks(reader), limit_bytes, charge)
        rest = raw
        while True:
            frame = engine.decompressobj()
            frame.decompress(rest)
            if not frame.eof:
                raise InvalidRequest("the zstd body ends too early")
            rest = frame.unused_data
            if not rest:
                return body
    except zstandard.ZstdError as error:
        raise InvalidRequest(f"the body is not zstd: {error}") from error
