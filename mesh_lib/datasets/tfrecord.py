"""TFRecord files of tf.train.Example, without TensorFlow: records one at a time, each held against its checksum.

A record is its length (8 bytes, little-endian), the masked CRC-32C of these 8 bytes, the data, and the data's masked
CRC-32C (TensorFlow's tensorflow/core/lib/io/record_writer.h). An Example is a protocol buffer: a map from names to
lists of bytes, floats or 64-bit integers. Damaged lengths cannot lead astray: nothing is read on the word of one that
does not fit its checksum, its file or its message.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

MAX_RECORD = 1 << 29
"""Bytes; a record that claims more is not one of pictures."""
LANE = 1024
"""Bytes of one of the pieces whose checksums are computed side by side."""
Feature = list[bytes] | np.ndarray
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


def records(stream: io.BufferedIOBase, *, where: str) -> Iterator[bytes]:
    """The records of a file. Raises ValueError for one that is cut, damaged or no TFRecord file."""
    number = 0
    while head := stream.read(12):
        place = f"{where}: record {number}"
        if len(head) < 12:
            raise ValueError(f"{place} is cut: the file ends inside its length\n  fix: fetch the file again")
        length, checksum = struct.unpack("<QI", head)
        if masked_crc32c(head[:8]) != checksum:
            what = "is damaged: its length does not fit its checksum" if number else "is no TFRecord, or is damaged"
            raise ValueError(f"{place} {what}\n  fix: pass uncompressed TFRecord files; fetch the file again")
        if length > MAX_RECORD:
            raise ValueError(f"{place} claims {length} bytes; the limit is {MAX_RECORD}")
        data, tail = stream.read(length), stream.read(4)
        if len(data) < length or len(tail) < 4:
            raise ValueError(f"{place} is cut: the file ends inside its {length} bytes\n  fix: fetch the file again")
        if masked_crc32c(data) != struct.unpack("<I", tail)[0]:
            raise ValueError(f"{place} is damaged: its data do not fit their checksum\n  fix: fetch the file again")
        yield data
        number += 1


def parse_example(data: bytes, *, where: str) -> dict[str, Feature]:
    """The features of a tf.train.Example: lists of bytes, float32 or int64 arrays. Raises ValueError."""
    found: dict[str, Feature] = {}
    try:
        for features in _messages(memoryview(data), 1):
            for pair in _messages(features, 1):
                name = b"".join(bytes(part) for part in _messages(pair, 1)).decode()
                value = memoryview(b"".join(_messages(pair, 2)))
                found[name] = _feature(value)
    except (ValueError, struct.error) as error:
        raise ValueError(f"{where} is no tf.train.Example: {error}") from None
    return found


def _feature(message: memoryview) -> Feature:
    """A list of bytes (field 1), floats (2) or integers (3)."""
    strings: list[bytes] = []
    floats, integers = [np.zeros(0, np.float32)], [np.zeros(0, np.int64)]
    kinds: set[int] = set()
    for kind, _, values in _fields(message):
        if not isinstance(values, memoryview):
            raise ValueError("a feature is no message")
        kinds.add(kind)
        for number, wire, value in _fields(values):
            if number != 1:
                continue
            if kind == 1 and wire == LENGTH:
                strings.append(bytes(value))  # type: ignore[arg-type]
            elif kind == 2 and wire in (LENGTH, FIXED32):
                floats.append(np.frombuffer(value, "<f4"))  # type: ignore[arg-type]
            elif kind == 3 and isinstance(value, int):
                integers.append(np.array([value], np.uint64).view(np.int64))
            elif kind == 3 and wire == LENGTH:
                integers.append(_varints(value))  # type: ignore[arg-type]
            else:
                raise ValueError(f"a list of kind {kind} has a value of wire type {wire}")
    if len(kinds) > 1:
        raise ValueError("a feature is of two kinds")
    if kinds == {2}:
        return np.concatenate(floats)
    return np.concatenate(integers) if kinds == {3} else strings


def _messages(message: memoryview, wanted: int) -> Iterator[memoryview]:
    for number, _, value in _fields(message):
        if number == wanted:
            if not isinstance(value, memoryview):
                raise ValueError(f"field {wanted} is no message")
            yield value


def _fields(message: memoryview) -> Iterator[tuple[int, int, memoryview | int]]:
    """(number, wire type, value) of each field of a message; varints as integers, all others as their bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        wire = tag & 7
        if wire == VARINT:
            value, at = _varint(message, at)
            yield tag >> 3, wire, value
            continue
        if wire == LENGTH:
            size, at = _varint(message, at)
        elif wire in (FIXED32, FIXED64):
            size = 4 if wire == FIXED32 else 8
        else:
            raise ValueError(f"a field has wire type {wire}")
        if size > len(message) - at:
            raise ValueError(f"a field claims {size} bytes where {len(message) - at} are left")
        yield tag >> 3, wire, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """An unsigned integer of up to 64 bits, and where the next byte lies."""
    value = 0
    for i, byte in enumerate(message[at : at + 10]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at + i + 1
    raise ValueError("a number is cut, or longer than ten bytes")


def _varints(packed: memoryview) -> np.ndarray:
    values, at = [], 0
    while at < len(packed):
        value, at = _varint(packed, at)
        values.append(value)
    return np.array(values, np.uint64).view(np.int64)


def masked_crc32c(data: bytes) -> int:
    """TensorFlow's mask of the CRC-32C, which makes checksums of checksums safe."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFF_FFFF


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli). Long data are cut into lanes that go through the table side by side: 100 MB a second.

    Checksums are linear: that of a whole is that of its first part, moved on by the length of the rest, plus that of
    the rest. Zeros in front change nothing once the initial value is folded into the first four bytes.
    """
    table = _table()
    if len(data) < 2 * LANE:
        state = 0xFFFF_FFFF
        steps = table.tolist()
        for byte in data:
            state = steps[(state ^ byte) & 0xFF] ^ state >> 8
        return state ^ 0xFFFF_FFFF
    padded = np.zeros(-(-len(data) // LANE) * LANE, np.uint8)
    first = len(padded) - len(data)
    padded[first:] = np.frombuffer(data, np.uint8)
    padded[first : first + 4] ^= 0xFF
    state = 0
    moved = _moved_on()
    for lane in _through(np.ascontiguousarray(padded.reshape(-1, LANE).T)).tolist():
        state = (
            moved[0][state & 0xFF] ^ moved[1][state >> 8 & 0xFF] ^ moved[2][state >> 16 & 0xFF] ^ moved[3][state >> 24]
        )
        state ^= lane
    return state ^ 0xFFFF_FFFF


def _through(columns: np.ndarray, state: np.ndarray | None = None) -> np.ndarray:
    """States after all bytes (steps, lanes), from zero where none are given."""
    table = _table()
    state = np.zeros(columns.shape[1], np.uint32) if state is None else state
    for bytes_ in columns:
        state = table[(state ^ bytes_) & 0xFF] ^ state >> np.uint32(8)
    return state


@lru_cache(maxsize=1)
def _table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(0x82F63B78), table >> 1)
    return table


@lru_cache(maxsize=1)
def _moved_on() -> list[list[int]]:
    """For each byte of a state, and each value of it, that state after a lane of zeros."""
    states = (np.arange(256, dtype=np.uint32)[None] << np.arange(0, 32, 8, dtype=np.uint32)[:, None]).ravel()
    zeros = np.zeros((LANE, states.size), np.uint8)
    return _through(zeros, states).reshape(4, 256).tolist()
