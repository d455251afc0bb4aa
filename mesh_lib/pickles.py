"""Pickles of others, read without running any code: dicts of arrays, as numpy, scipy and chumpy left them.

A pickle is a program: it names classes and functions, calls them and sets their state. Here every name leads to a
stand-in that only keeps what it is told; arrays are made of that afterwards, and checked first. numpy's own classes
are kept from pickles too: a dtype's state, as a pickle may set it, makes numpy follow pointers out of the file.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import scipy.sparse

PLAIN_KIND = re.compile(r"[<>|=]?([biufc](1|2|4|8|16)|[SU]\d{1,6}|O8?|\?)")
"""Kinds of values that arrays may have: numbers, texts, and lists' entries (O)."""
MOST_VALUES = 1 << 28
"""Of a sparse matrix written out: a small file can claim any shape."""


class _Stored:
    """Stands in for an object of another library: keeps what it was made of and its state, runs nothing."""

    made_of: tuple[Any, ...] = ()
    state: Any = MappingProxyType({})

    def __init__(self, *made_of: Any) -> None:
        self.made_of = made_of

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def value(self) -> Any:
        raise ValueError("it holds something that is no array")


class _Bytes(_Stored):
    """_codecs.encode: bytes as protocol 2 writes them."""

    def value(self) -> bytes:
        text, how = self.made_of
        if how not in ("latin1", "latin-1"):
            raise ValueError(f"it holds bytes as {how}")
        return text.encode("latin1")


class _Kind(_Stored):
    """numpy.dtype, of plain values alone."""

    def value(self) -> np.dtype:
        name = self.made_of[0]
        if not isinstance(name, str) or not PLAIN_KIND.fullmatch(name):
            raise ValueError(f"it holds an array of {name!r}: refused")
        kind = np.dtype(name)
        if not self.state:
            return kind
        _, order, *inner = self.state[:5]
        if any(part is not None for part in inner):
            raise ValueError("it holds an array of records: refused")
        return kind.newbyteorder(order) if order in ("<", ">") else kind


class _Array(_Stored):
    """numpy.ndarray: (version, shape, dtype, whether Fortran's order, values)."""

    def value(self) -> np.ndarray:
        _, shape, kind, fortran, values = self.state
        return _array_of(values, kind, shape, "F" if fortran else "C")


class _Buffer(_Stored):
    """numpy's _frombuffer, which protocol 5 calls: (values, dtype, shape, order)."""

    def value(self) -> np.ndarray:
        return _array_of(*self.made_of)


class _Scalar(_Stored):
    """numpy's scalar: (dtype, its bytes)."""

    def value(self) -> Any:
        kind, values = self.made_of
        return _array_of(values, kind, (), "C")[()]


class _Chumpy(_Stored):
    """chumpy's arrays."""

    def value(self) -> np.ndarray:
        state = self.state if isinstance(self.state, dict) else {}
        if "x" in state:
            return np.asarray(_value(state["x"]))
        if {"a", "idxs", "preferred_shape"} <= state.keys():  # chumpy's Select: a flat choice of another array
            chosen = np.asarray(_value(state["a"])).ravel()[np.asarray(_value(state["idxs"]))]
            return chosen.reshape(_value(state["preferred_shape"]))
        raise ValueError(f"a chumpy array without values (it holds {', '.join(map(str, state)) or 'nothing'})")


class _Sparse(_Stored):
    """scipy's compressed matrices."""

    kind: type[Any] = scipy.sparse.csc_matrix

    def value(self) -> np.ndarray:
        state = _value(self.state)
        shape = state.get("_shape", state.get("shape"))
        if math.prod(shape) > MOST_VALUES:
            raise ValueError(f"it holds a matrix of {shape}")
        matrix = self.kind((state["data"], state["indices"], state["indptr"]), shape=shape)
        matrix.check_format(full_check=True)  # else an index beyond the shape writes beyond the array
        return matrix.toarray()


def _array_of(values: Any, kind: Any, shape: Any, order: str) -> np.ndarray:
    dtype, values = _value(kind), _value(values)
    if not isinstance(dtype, np.dtype) or order not in ("C", "F"):
        raise ValueError("it holds an array of nothing known")
    if not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError(f"it holds an array of shape {shape}")
    if dtype.hasobject:
        if not isinstance(values, list) or len(values) != math.prod(shape):
            raise ValueError("it holds an array whose entries are not its own")
        flat = np.empty(len(values), object)
        flat[:] = values
    else:
        if isinstance(values, str):  # Python 2's bytes
            values = values.encode("latin1")
        if len(values) != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"it holds {len(values)} bytes for an array of {shape} {dtype}")
        flat = np.frombuffer(values, dtype).copy() if len(values) else np.empty(0, dtype)
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _value(stored: Any) -> Any:
    """What stand-ins stand for, in lists and dicts too."""
    if isinstance(stored, _Stored):
        return stored.value()
    if isinstance(stored, dict):
        return {name: _value(value) for name, value in stored.items()}
    if isinstance(stored, (list, tuple)):
        return type(stored)(_value(value) for value in stored)
    return stored


class _RestrictedUnpickler(pickle.Unpickler):
    """Knows the stand-ins; any other name is refused."""

    def __init__(self, data: bytes, what: str) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._what = what
        # A pickle may set attributes of whatever its names lead to: each file gets classes of its own.
        chumpy, self._marker = type("Chumpy", (_Chumpy,), {}), type("Marker", (), {})
        sparse = {
            name: type(name, (_Sparse,), {"kind": getattr(scipy.sparse, name)}) for name in ("csc_matrix", "csr_matrix")
        }
        array = type("Array", (_Array,), {})
        self._chumpy, self._sparse = chumpy, sparse
        self._names: Mapping[tuple[str, str], Any] = {
            ("numpy", "dtype"): type("Kind", (_Kind,), {}),
            ("numpy", "ndarray"): self._marker,
            ("multiarray", "_reconstruct"): lambda kind, shape, code: array(),
            ("multiarray", "scalar"): type("Scalar", (_Scalar,), {}),
            ("numeric", "_frombuffer"): type("Buffer", (_Buffer,), {}),
            ("_codecs", "encode"): type("Bytes", (_Bytes,), {}),
            ("__builtin__", "bytes"): lambda: b"",
            ("copy_reg", "_reconstructor"): lambda kind, base, state: self._new(kind),
            ("copyreg", "_reconstructor"): lambda kind, base, state: self._new(kind),
            ("__builtin__", "object"): self._marker,
            ("builtins", "object"): self._marker,
        }

    def find_class(self, module: str, name: str) -> Any:
        place = re.sub(r"^numpy\._?core\.", "", module), name
        if place in self._names:
            return self._names[place]
        if module.split(".")[:2] == ["scipy", "sparse"] and name in self._sparse:
            return self._sparse[name]
        if module.split(".")[0] == "chumpy":
            return self._chumpy
        raise ValueError(f"it names {module}.{name}, which {self._what} has no use for: refused, nothing was run")

    def _new(self, kind: Any) -> Any:
        if kind not in (self._chumpy, *self._sparse.values()):
            raise ValueError(f"it builds a {getattr(kind, '__name__', kind)}: refused")
        return kind()


def read_pkl(data: bytes, *, where: str, what: str = "a body model") -> dict[str, Any]:
    """The arrays in a licensed .pkl (Python 2 pickles, too), without chumpy and without running code.

    Lists, strings and numbers beside the arrays come as they are. Raises ValueError for a file that is no pickle, or
    that names anything but arrays.
    """
    try:
        content = _RestrictedUnpickler(data, what).load()
        if isinstance(content, dict):
            return {name: _value(value) for name, value in content.items()}
    except Exception as error:  # unpicklers raise nearly anything on damaged input
        raise ValueError(f"{where} cannot be read as {what}: {error}") from None
    raise ValueError(f"{where} is not {what}: it holds a {type(content).__name__}")
