from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest
import simplejpeg

from mesh_lib.datasets.images import BadImage, decode, encode_jpeg, picture_size
from tests.photos import with_orientation


def test_red_stays_red() -> None:
    red = np.zeros((40, 60, 3), np.uint8)
    red[..., 0] = 200
    again = decode(encode_jpeg(red))
    assert again.shape == (40, 60, 3)
    assert abs(again.reshape(-1, 3).mean(axis=0) - [200, 0, 0]).max() < 3


PHOTO = cv2.resize(np.random.default_rng(0).integers(0, 255, (13, 17, 3), np.uint8), (163, 121))
HALVED = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
FULL = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]


@pytest.mark.parametrize("data", [
    cv2.imencode(".jpg", PHOTO, HALVED)[1].tobytes(),
    cv2.imencode(".jpg", PHOTO, [*FULL, cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes(),
    cv2.imencode(".jpg", PHOTO[..., 0])[1].tobytes(),
    simplejpeg.encode_jpeg(np.dstack([PHOTO, PHOTO[..., 0]]), colorspace="CMYK", colorsubsampling="422"),
    cv2.imencode(".jpg", PHOTO)[1].tobytes()[:2000] + b"\xff\xd9",
], ids=["halved colours", "progressive", "grey", "for print", "damaged"])  # fmt: skip
def test_pixels_are_those_that_opencv_gives(data: bytes) -> None:
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert expected is not None
    np.testing.assert_array_equal(decode(data), expected)


@pytest.mark.parametrize("keep", [10, 0.5, 0.98])
def test_a_truncated_jpeg_is_refused_though_decoders_would_fill_it_with_grey(keep: float) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    data = encode_jpeg(picture)
    with pytest.raises(BadImage):
        decode(data[: int(keep if keep > 1 else len(data) * keep)])


def test_what_phones_put_after_a_jpeg_does_not_make_it_truncated() -> None:
    """Samsung's and Google's motion photos: a film of megabytes after the end marker."""
    data = encode_jpeg(np.random.default_rng(0).integers(0, 255, (64, 48, 3), np.uint8))
    np.testing.assert_array_equal(decode(data + bytes(1 << 16)), decode(data))
    thumbnail = b"\xff\xe1" + struct.pack(">H", 2 + len(data)) + data
    with pytest.raises(BadImage, match="truncated"):
        decode(data[:2] + thumbnail + data[2:-600])


@pytest.mark.parametrize(("turn", "shape"), [(False, (48, 64, 3)), (True, (64, 48, 3))])
def test_pictures_are_turned_as_exif_says_where_that_is_asked_for(turn: bool, shape: tuple[int, ...]) -> None:
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24] = 200  # above, as the sensor saw it: to the right, once a quarter turn clockwise is made
    turned = decode(with_orientation(encode_jpeg(picture), 6), turn=turn)
    assert turned.shape == shape
    assert turned[-8:, -8:].mean() == pytest.approx(200 if turn else 0, abs=3)


def test_an_image_bomb_is_refused_before_it_is_decoded() -> None:
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(BadImage, match="60000x60000"):
        decode(bomb)


@pytest.mark.parametrize("data", [None, b"", b"GIF89a", b"not a picture at all"])
def test_what_is_no_picture_is_refused(data: bytes | None) -> None:
    with pytest.raises(BadImage):
        decode(data)


def test_the_size_is_read_from_the_header() -> None:
    assert picture_size(encode_jpeg(np.zeros((12, 34, 3), np.uint8))) == (34, 12)
