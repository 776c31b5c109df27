"""Reads request bodies with bounds that hold while they are read and decompressed."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
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

_CHUNK_BYTES = 64 << 10
_ZSTD_WINDOW_BYTES = 64 << 20
"""Encoders use 8 MiB (RFC 8878, 3.1.1.1.2), at their best levels up to 32. A frame that asks for a
larger window is refused: memory is bounded before data come."""
_GZIP_WINDOW_BITS = 31


def read_body(
    stream: IO[bytes], *, encoding: str, limit_bytes: int, length: int | None, chunked: bool = False
) -> bytes:
    """Read and decompress a body.

    Args:
        stream: The raw body.
        encoding: Content-Encoding: empty, ``identity``, ``gzip`` or ``zstd``.
        limit_bytes: Of the body, as it comes and decompressed.
        length: Content-Length.
        chunked: Whether the server finds the end of a body without a length.

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
        raw = _bounded(_chunks(stream), limit_bytes)
    except ClientDisconnected as error:
        # 408, not werkzeug's 400: senders drop a batch on a 400, and send it again on a 408.
        raise RequestTimeout(f"the body ended before its {length} bytes") from error
    if encoding == "gzip":
        return _bounded(_gunzip(raw), limit_bytes)
    if encoding == "zstd":
        return _unzstd(raw, limit_bytes)
    return raw


def _bounded(parts: Iterator[bytes], limit_bytes: int) -> bytes:
    found: list[bytes] = []
    size = 0
    for part in parts:
        size += len(part)
        if size > limit_bytes:
            raise TooLarge(f"the body is larger than {limit_bytes} bytes: send smaller batches")
        found.append(part)
    return b"".join(found)


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK_BYTES):
        yield chunk


def _gunzip(raw: bytes) -> Iterator[bytes]:
    """Decompress all members, at most a chunk at a time."""
    data = raw
    while True:
        engine = zlib.decompressobj(_GZIP_WINDOW_BITS)
        try:
            while not engine.eof:
                part = engine.decompress(data, _CHUNK_BYTES)
                data = engine.unconsumed_tail
                if not part and not data and not engine.eof:
                    raise InvalidRequest("the gzip body ends too early")
                yield part
        except zlib.error as error:
            raise InvalidRequest(f"the body is not gzip: {error}") from error
        data = engine.unused_data
        if not data:
            return


def _unzstd(raw: bytes, limit_bytes: int) -> bytes:
    """Decompress all frames; a second pass checks that the last one is whole.

    The bounded reader does not notice a body that is cut off, and the object that does has no
    bound: it runs once it is known that little comes out.
    """
    engine = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
    try:
        with engine.stream_reader(io.BytesIO(raw), read_across_frames=True) as reader:
            body = _bounded(_chunks(reader), limit_bytes)
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
