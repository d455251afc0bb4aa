"""Pictures from bytes, refused when broken or dangerous."""

from __future__ import annotations

import contextlib
from typing import Literal

import cv2
import numpy as np
import simplejpeg

Order = Literal["RGB", "BGR"]
"""Of a picture's channels: BGR is OpenCV's own, for pictures that are cut and encoded again."""
JPEG = b"\xff\xd8"
MAX_PIXELS = 100_000_000
"""Larger pictures are refused: a small file can claim any size (an image bomb)."""


class BadImage(ValueError):
    """A picture that cannot be read; `reason` is the status that its sample gets (mesh_lib/tables.py)."""

    def __init__(self, message: str, *, reason: str = "bad_image") -> None:
        super().__init__(message)
        self.reason = reason


def decode(data: bytes | None, *, turn: bool = False, order: Order = "RGB") -> np.ndarray:
    """JPEG or PNG bytes → uint8 (H, W, 3), turned as EXIF says where that is asked for; the datasets' labels ignore
    it.

    Raises BadImage. Truncated JPEGs are refused too, though decoders would fill the rest with grey.
    """
    if not data:
        raise BadImage("no picture", reason="missing_image")
    width, height = picture_size(data)
    if width * height > MAX_PIXELS:
        claim = f"picture claims {width}x{height} pixels; the limit is {MAX_PIXELS}"
        raise BadImage(claim, reason="image_too_large")
    if data[:2] == JPEG and not turn:
        with contextlib.suppress(ValueError):  # damaged or CMYK: OpenCV makes of it what can be made
            return simplejpeg.decode_jpeg(data, order)  # OpenCV's pixels, sooner (tests/bench/bench_ingest.py)
    flags = cv2.IMREAD_COLOR_RGB if order == "RGB" else cv2.IMREAD_COLOR_BGR
    flags |= 0 if turn else cv2.IMREAD_IGNORE_ORIENTATION
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if picture is None:
        raise BadImage("the picture cannot be decoded")
    return picture


def picture_size(data: bytes) -> tuple[int, int]:
    """(width, height) from the header of a whole JPEG or PNG. Raises BadImage for anything else."""
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        if b"IEND" not in data[-16:]:
            raise BadImage("the PNG is truncated: it has no end marker")
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if data[:2] == JPEG:
        return _jpeg_size(data)
    raise BadImage("the file is neither JPEG nor PNG")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    at = 2
    while at + 9 < len(data):
        if data[at] != 0xFF or data[at + 1] == 0xFF:  # between segments, or a fill byte
            at += 1
            continue
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            # Phones put whole films after the end marker, and thumbnails with one of their own before the frame.
            if data.rfind(b"\xff\xd9", at) < 0:
                raise BadImage("the JPEG is truncated: it has no end marker")
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        at += 2 if marker == 0x01 or 0xD0 <= marker <= 0xD8 else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    raise BadImage("the JPEG has no frame header")


def encode_jpeg(picture: np.ndarray, *, quality: int = 95, order: Order = "RGB") -> bytes:
    """uint8 (H, W, 3) → JPEG bytes."""
    picture = picture if order == "BGR" else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done, picture.shape
    return data.tobytes()
