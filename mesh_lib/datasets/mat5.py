"""The structure of a MATLAB file (version 5 to 7), checked before scipy reads it.

scipy trusts the types and sizes that such a file names: on a damaged one it may end the process instead of raising an
error, or ask for all memory. This walks the tags of the variables that are wanted and refuses what is out of place;
also sparse arrays, objects and functions, for which no dataset has a use.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection

HEADER = 128
INT8, INT32, UINT32, MATRIX, COMPRESSED = 1, 5, 6, 14, 15
ITEM_BYTES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8}
TEXT = {**ITEM_BYTES, 16: 1, 17: 2, 18: 4}
CELL, STRUCT, CHAR, NUMBERS = 1, 2, 4, range(6, 16)
COMPLEX = 0x800
DEEPEST = 32
LARGEST = 1 << 32
"""Bytes of one variable, unpacked."""


def check(data: bytes, names: Collection[str]) -> None:
    """Raises ValueError for a file that scipy should not be given to read these variables from."""
    mark = data[126:128]
    if len(data) < HEADER or mark not in (b"IM", b"MI"):
        raise ValueError("it has no MATLAB 5 header (version 7.3 is HDF5)")
    order = "<" if mark == b"IM" else ">"
    view, at = memoryview(data), HEADER
    while at < len(view):
        kind, start, size = _tag(view, at, order)
        at = start + size
        part = view[start:at]
        if kind == COMPRESSED:
            part = memoryview(_unpacked(part, order, names))
            if not len(part):
                continue
            kind, start, size = _tag(part, 0, order)
            if start + size != len(part):
                raise ValueError("a compressed variable is not one array")
            part = part[start:]
        if kind != MATRIX:
            raise ValueError(f"a variable has type {kind}")
        if _name(part, order) in names:
            _matrix(part, order, DEEPEST)


def _unpacked(part: memoryview, order: str, names: Collection[str]) -> bytes:
    """The variable, empty where its name is not wanted."""
    try:
        head = zlib.decompressobj().decompress(part, 4096)
        _, start, _ = _tag(head, 0, order, whole=False)
        if _name(memoryview(head)[start:], order) not in names:
            return b""
        unpacker = zlib.decompressobj()
        whole = unpacker.decompress(part, LARGEST)
    except zlib.error as error:
        raise ValueError(f"a variable cannot be unpacked: {error}") from None
    if not unpacker.eof:
        raise ValueError(f"a variable is cut off, or larger than {LARGEST >> 30} GiB")
    return whole


def _tag(view: memoryview | bytes, at: int, order: str, *, whole: bool = True) -> tuple[int, int, int]:
    """Type of the element at a place, where its content starts, and its bytes."""
    if at + 8 > len(view):
        raise ValueError("it is cut off")
    kind, size = struct.unpack_from(order + "II", view, at)
    if kind >> 16:  # up to four bytes fit in the tag itself
        size, kind = kind >> 16, kind & 0xFFFF
        if size > 4:
            raise ValueError("a small element is not small")
        return kind, at + 4, size
    if whole and at + 8 + size > len(view):
        raise ValueError("an element is larger than what holds it")
    return kind, at + 8, size


def _next(start: int, size: int, view: memoryview) -> int:
    """Where the next element starts: at a multiple of eight bytes."""
    return min(-(-(start + size) // 8) * 8, len(view))


def _name(view: memoryview, order: str) -> str:
    at = 0
    for kind in (UINT32, INT32):
        found, start, size = _tag(view, at, order)
        if found != kind:
            raise ValueError("an array does not start with flags and dimensions")
        at = _next(start, size, view)
    _, start, size = _tag(view, at, order)
    return bytes(view[start : start + size]).decode("latin1")


def _matrix(view: memoryview, order: str, depth: int) -> None:
    """An array and all that it holds."""
    if not len(view):
        return
    if not depth:
        raise ValueError("it is nested too deeply")
    kind, start, size = _tag(view, 0, order)
    if (kind, size) != (UINT32, 8):
        raise ValueError("an array has no flags")
    flags = struct.unpack_from(order + "I", view, start)[0]
    at = start + size
    kind, start, size = _tag(view, at, order)
    if kind != INT32 or size % 4 or not 8 <= size <= 128:
        raise ValueError("an array has no dimensions")
    count = 1
    for length in struct.unpack_from(f"{order}{size // 4}i", view, start):
        if length < 0:
            raise ValueError("an array has a negative dimension")
        count *= length
    at = _next(start, size, view)
    kind, start, size = _tag(view, at, order)
    if kind != INT8:
        raise ValueError("an array has no name")
    at = _next(start, size, view)
    sort = flags & 0xFF
    if sort in NUMBERS or sort == CHAR:
        at = _values(view, at, order, count, parts=2 if flags & COMPLEX else 1, text=sort == CHAR)
    elif sort in (CELL, STRUCT):
        fields = 1
        if sort == STRUCT:
            fields, at = _fields(view, at, order)
        if count * max(fields, 1) > len(view):
            raise ValueError("an array claims more entries than it has bytes")
        for _ in range(count * fields):
            kind, start, size = _tag(view, at, order)
            if kind != MATRIX:
                raise ValueError(f"an entry has type {kind}")
            _matrix(view[start : start + size], order, depth - 1)
            at = _next(start, size, view)
    else:
        raise ValueError(f"it holds an array of class {sort}, which is neither numbers, text, cells nor a struct")
    if at != len(view):
        raise ValueError("an array and its content differ in size")


def _values(view: memoryview, at: int, order: str, count: int, *, parts: int, text: bool) -> int:
    for _ in range(parts):
        kind, start, size = _tag(view, at, order)
        bytes_each = (TEXT if text else ITEM_BYTES).get(kind)
        if bytes_each is None or (size != count * bytes_each if not text else size > count * 4):
            raise ValueError(f"an array of {count} entries has {size} bytes of type {kind}")
        at = _next(start, size, view)
    return at


def _fields(view: memoryview, at: int, order: str) -> tuple[int, int]:
    """How many fields a struct has, and where its first starts."""
    kind, start, size = _tag(view, at, order)
    if (kind, size) != (INT32, 4):
        raise ValueError("a struct does not say how long its names are")
    length = struct.unpack_from(order + "i", view, start)[0]
    at = _next(start, size, view)
    kind, start, size = _tag(view, at, order)
    if kind != INT8 or not 0 < length <= 64 or size % length:
        raise ValueError("a struct has no names of fields")
    return size // length, _next(start, size, view)
