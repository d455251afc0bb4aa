"""JSON files larger than memory: the entries of a file's lists and objects, one at a time.

The standard library's decoder does the decoding, entry by entry, in C; it also reads the NaN that Python's own writer
leaves in label files and that streaming parsers (ijson) refuse.
"""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

CHUNK = 1 << 20
TAIL = 4096
MAX_ENTRY = 1 << 28
"""Characters of one entry: a file whose single entry is larger is not one of people."""
_SPACE = " \t\n\r"


@runtime_checkable
class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Text:
    """A window on the text of a file."""

    def __init__(self, stream: Readable) -> None:
        self.stream, self.bytes = stream, codecs.getincrementaldecoder("utf-8-sig")()
        self.buffer, self.at = "", 0
        self.decoder = json.JSONDecoder()

    def more(self, size: int = CHUNK) -> bool:
        data = self.stream.read(size)
        self.buffer, self.at = self.buffer[self.at :] + self.bytes.decode(data, final=not data), 0
        return bool(data)

    def peek(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            while self.at < len(self.buffer) and self.buffer[self.at] in _SPACE:
                self.at += 1
            if self.at < len(self.buffer):
                return self.buffer[self.at]
            if not self.more():
                return ""

    def take(self, wanted: str) -> str:
        found = self.peek()
        if not found or found not in wanted:
            raise ValueError(f"expected {' or '.join(wanted)}, found {found or 'the end of the file'}")
        self.at += 1
        return found

    def value(self) -> Any:
        """The next whole value."""
        self.peek()
        size = CHUNK
        while True:
            try:
                start, (value, end) = self.at, self.decoder.raw_decode(self.buffer, self.at)
                if end < len(self.buffer):
                    self.at = end
                    return value
                if not self.more():  # a number at the end of the window may go on behind it
                    self.at = end - start
                    return value
            except RecursionError:
                raise ValueError("an entry is nested too deeply") from None
            except json.JSONDecodeError as error:
                if len(self.buffer) - self.at > MAX_ENTRY:
                    raise ValueError("an entry is too large, or damaged") from None
                if not self.more(size):
                    raise ValueError(f"{error.msg}; the file is truncated or damaged") from None
                size *= 2


def entries(
    stream: Readable, *names: str, where: str, expected: str = "", to_end: bool = True
) -> Iterator[tuple[str, Any, Any]]:
    """(name, key, entry) for each entry of the lists and objects that a JSON object has under `names`, in file order.

    The key is a list entry's position, or an object entry's name. Without names: of all that the object has. A value
    that is neither list nor object comes as one entry with key None. Memory holds one entry at a time. Without
    `to_end` what follows the last of `names` is neither read nor checked: decoding what nobody asks for takes long.
    Raises ValueError, which ends with what was `expected`, for a file that is not JSON, whose top is not an object or
    that lacks one of `names`.
    """
    text, lacking = _Text(stream), dict.fromkeys(names)
    try:
        if text.peek() != "{":
            raise ValueError("its top is not an object")
        for name in _members(text):
            wanted = not names or name in names
            lacking.pop(name, None)
            opening = text.peek()
            if opening == "[":
                for key, entry in enumerate(_elements(text)):
                    if wanted:
                        yield name, key, entry
            elif opening == "{":
                for key in _members(text):
                    entry = text.value()
                    if wanted:
                        yield name, key, entry
            else:
                value = text.value()
                if wanted:
                    yield name, None, value
            if names and not lacking and not to_end:
                return
        if text.peek():
            raise ValueError("something follows after its end")
    except ValueError as error:
        raise ValueError(f"{where} is not JSON of an object: {error}{expected}") from None
    if lacking:
        raise ValueError(f"{where} has no `{'`, no `'.join(lacking)}`{expected}")


def check_closed(stream: io.BufferedIOBase, *, where: str) -> None:
    """Raise ValueError for a file of an object that does not end with one, such as half a download: by its last bytes,
    without reading all before them. Leaves the stream at its start."""
    stream.seek(max(0, stream.seek(0, io.SEEK_END) - TAIL))
    tail = stream.read().rstrip()
    stream.seek(0)
    if not tail.endswith(b"}"):
        raise ValueError(f"{where} is not JSON of an object: the file is truncated or damaged; it does not end with }}")


def elements(stream: Readable, *, where: str) -> Iterator[Any]:
    """The elements of a file that is one list. Raises ValueError for any other."""
    text = _Text(stream)
    try:
        if text.peek() != "[":
            raise ValueError("its top is not a list")
        yield from _elements(text)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON of a list: {error}") from None


def members(stream: Readable, *, where: str) -> Iterator[tuple[str, Any]]:
    """(name, value) of a file that is one object, each value whole. Raises ValueError for any other."""
    text = _Text(stream)
    try:
        if text.peek() != "{":
            raise ValueError("its top is not an object")
        for name in _members(text):
            yield name, text.value()
    except ValueError as error:
        raise ValueError(f"{where} is not JSON of an object: {error}") from None


def _members(text: _Text) -> Iterator[str]:
    """Names of an object's members; the caller takes each one's value."""
    text.take("{")
    if text.peek() == "}":
        text.take("}")
        return
    while True:
        name = text.value()
        if not isinstance(name, str):
            raise ValueError("a name of an object is not a string")
        text.take(":")
        yield name
        if text.take(",}") == "}":
            return


def _elements(text: _Text) -> Iterator[Any]:
    text.take("[")
    if text.peek() == "]":
        text.take("]")
        return
    while True:
        yield text.value()
        if text.take(",]") == "]":
            return
