"""TFRecord: checksums of known value, the wire format written here by hand, damage that is found."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from mesh_lib.datasets.tfrecord import LANE, MAX_RECORD, crc32c, masked_crc32c, parse_example, records

Read = Callable[[bytes], Iterator[bytes]]


@pytest.fixture
def read(tmp_path: Path) -> Iterator[Read]:
    """The records of a file of these bytes, named x."""
    streams = []

    def read(data: bytes) -> Iterator[bytes]:
        (tmp_path / "x").write_bytes(data)
        streams.append((tmp_path / "x").open("rb"))
        return records(streams[-1], where="x")

    yield read
    for stream in streams:
        stream.close()


def slow_crc32c(data: bytes) -> int:
    """Bit by bit, as the polynomial is defined."""
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = (state >> 1) ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


def frame(data: bytes) -> bytes:
    def mask(part: bytes) -> bytes:
        crc = slow_crc32c(part)
        return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32)

    length = struct.pack("<Q", len(data))
    return length + mask(length) + data + mask(data)


def varint(value: int) -> bytes:
    value %= 2**64
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(**features: bytes) -> bytes:
    pairs = [field(1, field(1, name.encode()) + field(2, value)) for name, value in features.items()]
    return field(1, b"".join(pairs))


def strings(*values: bytes) -> bytes:
    return field(1, b"".join(field(1, value) for value in values))


def floats(*values: float) -> bytes:
    return field(2, field(1, struct.pack(f"<{len(values)}f", *values)))


def integers(*values: int) -> bytes:
    return field(3, field(1, b"".join(map(varint, values))))


@pytest.mark.parametrize(
    ("data", "crc"),  # RFC 3720, B.4, and the customary check value
    [
        (b"", 0), (b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E), (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)  # fmt: skip
def test_checksums_of_known_value(data: bytes, crc: int) -> None:
    assert crc32c(data) == crc


@pytest.mark.parametrize("size", [1, 3, 4, 5, 2 * LANE - 1, 2 * LANE, 2 * LANE + 1, 3 * LANE, 5 * LANE + 7])
def test_lanes_side_by_side_give_the_checksum_of_the_whole(size: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8).tobytes()
    assert crc32c(data) == slow_crc32c(data)


def test_the_mask_is_tensorflows() -> None:
    # The first twelve bytes of any TFRecord whose first record is 24 bytes long.
    assert masked_crc32c(struct.pack("<Q", 24)) == struct.unpack("<I", frame(bytes(24))[8:12])[0]
    assert masked_crc32c(b"123456789") == (((0xE3069283 >> 15) | (0xE3069283 << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def test_records_come_one_after_the_other(read: Read) -> None:
    given = [b"", b"a", bytes(5000)]
    assert list(read(b"".join(map(frame, given)))) == given
    assert list(read(b"")) == []


def test_every_kind_of_feature_packed_or_not() -> None:
    unpacked_floats = field(2, varint(1 << 3 | 5) + struct.pack("<f", 0.5) + varint(1 << 3 | 5) + struct.pack("<f", 2))
    unpacked_integers = field(3, varint(1 << 3) + varint(7) + varint(1 << 3) + varint(-1))
    found = parse_example(
        example(
            s=strings(b"one", b"", b"\x00\xff"), f=floats(1.5, -2), i=integers(0, 300, -1, 2**63 - 1, -(2**63)),
            uf=unpacked_floats, ui=unpacked_integers, none=b"",
        )
        + varint(9 << 3) + varint(5) + varint(8 << 3 | 1) + bytes(8) + varint(7 << 3 | 5) + bytes(4),  # unknown fields
        where="x",
    )  # fmt: skip
    assert found["s"] == [b"one", b"", b"\x00\xff"] and found["none"] == []
    np.testing.assert_array_equal(found["f"], np.array([1.5, -2], np.float32))
    np.testing.assert_array_equal(found["i"], np.array([0, 300, -1, 2**63 - 1, -(2**63)]))
    np.testing.assert_array_equal(found["uf"], (0.5, 2))
    np.testing.assert_array_equal(found["ui"], (7, -1))


@pytest.mark.parametrize("at", [0, 3, 8, 11, 12, 20, -5, -1])
def test_a_flipped_bit_anywhere_is_found(read: Read, at: int) -> None:
    data = bytearray(frame(bytes(range(40))))
    data[at] ^= 0x10
    with pytest.raises(ValueError, match=r"x: record 0 is (no TFRecord|damaged|cut)"):
        list(read(bytes(data)))


def test_a_file_cut_anywhere_is_found_and_what_came_before_is_given(read: Read) -> None:
    whole = frame(b"first") + frame(bytes(100))
    first = len(frame(b"first"))
    for end in range(first + 1, len(whole)):
        rows = read(whole[:end])
        assert next(rows) == b"first"
        with pytest.raises(ValueError, match="x: record 1 is cut"):
            next(rows)


def test_a_length_that_is_absurd_but_has_its_checksum_is_refused(read: Read) -> None:
    length = struct.pack("<Q", MAX_RECORD + 1)
    with pytest.raises(ValueError, match="the limit is"):
        list(read(length + struct.pack("<I", masked_crc32c(length))))


def test_what_is_no_example_is_one_clear_error() -> None:
    good = example(a=strings(b"xyz"), b=floats(1, 2, 3), c=integers(1, 2))
    for end in range(1, len(good)):
        with pytest.raises(ValueError, match=r"^x is no tf\.train\.Example"):
            parse_example(good[:end], where="x")
    wrong = [
        b"\xff" * 11, varint(1 << 3 | 3), varint(1 << 3) + b"\x01", field(1, field(1, field(2, field(2, b"abc")))),
        example(a=field(2, field(1, b"123"))), example(a=strings(b"a") + floats(1)),
        field(1, field(1, field(1, b"\xff"))),
        example(a=field(1, varint(1 << 3) + b"\x01")), field(1, varint(1 << 3 | 2) + varint(2**63) + b"abc"),
    ]  # fmt: skip
    for data in wrong:
        with pytest.raises(ValueError, match=r"^x is no tf\.train\.Example"):
            parse_example(data, where="x")


def test_random_bytes_raise_nothing_but_value_errors() -> None:
    rng = np.random.default_rng(0)
    good = example(a=strings(b"xyz" * 20), b=floats(*range(30)), c=integers(*range(300)))
    for _ in range(2000):
        data = bytearray(good)
        for at in rng.integers(0, len(data), 3):
            data[at] = int(rng.integers(0, 256))
        try:
            parse_example(bytes(data), where="x")
        except ValueError as error:
            assert str(error).startswith("x is no tf.train.Example")
