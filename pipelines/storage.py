"""Local paths and object storage, spoken alike: every folder a job takes may be a path or an s3:// address."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

ROW_GROUP = 128
"""Rows a row group: the piece that training shuffles and a kill loses, a few seconds of work."""
S3_ATTEMPTS = 10
LOCAL = fs.LocalFileSystem()
Result = TypeVar("Result")
PENDING = ".pending-"
"""Files that are being written."""
MANIFESTS = ("_", ".")
"""Files that start so are not data (Hadoop's habit, which pyarrow and Ray follow)."""


def resolve(path: str) -> tuple[fs.FileSystem, str]:
    """File system and path inside it. Raises ValueError for a scheme that nobody serves."""
    path = absolute(path)
    if "://" not in path:
        return LOCAL, LOCAL.normalize_path(path)
    try:
        if path.startswith("s3://"):
            inner = path.removeprefix("s3://")
            endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
            return (_s3_at(endpoint) if endpoint else _s3_of(inner.partition("/")[0])), inner
        return fs.FileSystem.from_uri(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"cannot open {path}: {error}") from error


@lru_cache(maxsize=16)
def _s3_of(bucket: str) -> fs.FileSystem:
    """AWS, in the bucket's own region. One client a bucket: opening one costs a round trip."""
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    with contextlib.suppress(OSError):  # a store that does not tell, or a bucket that is not ours to ask about
        region = fs.resolve_s3_region(bucket)
    return fs.S3FileSystem(region=region or "us-east-1", **_patience())


def _patience() -> dict[str, Any]:
    """Throttling (503 SlowDown), resets and stalls are weather: a request is tried up to S3_ATTEMPTS times, each time
    after a longer wait, before anybody hears of it."""
    return {
        "retry_strategy": fs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS),
        "connect_timeout": 10,
        "request_timeout": 60,
        "allow_delayed_open": True,  # small objects are one request, not three
    }


@lru_cache(maxsize=4)
def _s3_at(endpoint: str) -> fs.S3FileSystem:
    """A server of one's own (MinIO, Ceph …); a hand-made pyarrow client does not look at AWS_ENDPOINT_URL."""
    scheme, _, host = endpoint.rstrip("/").rpartition("://")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    return fs.S3FileSystem(
        endpoint_override=host, scheme=scheme or "https", region=region, force_virtual_addressing=False, **_patience()
    )


def absolute(path: str | Path) -> str:
    """The same place for every process: workers of a cluster need not run in the folder of the command."""
    return str(path) if "://" in str(path) else os.path.abspath(path)


def join(folder: str, *names: str) -> str:
    return "/".join((str(folder).rstrip("/"), *names))


def exists(path: str) -> bool:
    system, inner = resolve(path)
    return system.get_file_info(inner).type != fs.FileType.NotFound


def list_files(folder: str, suffix: str = "", *, but: tuple[str, ...] = MANIFESTS) -> list[tuple[str, int]]:
    """(path in the file system, bytes) of the data files under a folder or of one file, sorted by path; not those that
    start with `but`, or lie in a folder that does."""
    system, inner = resolve(folder)
    info = system.get_file_info(inner)
    if info.type == fs.FileType.File:
        return [(info.path, info.size)]
    found = system.get_file_info(fs.FileSelector(inner, recursive=True, allow_not_found=True))
    return sorted(
        (f.path, f.size)
        for f in found
        if f.type == fs.FileType.File
        and f.path.endswith(suffix)
        and not any(part.startswith(but) for part in f.path[len(inner) :].split("/"))
    )


class Files:
    """The files of a dataset, for its reader (mesh_lib.datasets.people.Files): paths and s3:// addresses alike."""

    def open(self, path: str) -> io.BufferedReader:
        system, inner = resolve(path)
        raw = cast(io.RawIOBase, patiently(path, lambda: system.open_input_file(inner)))
        return io.BufferedReader(raw, 1 << 20)

    def exists(self, path: str) -> bool:
        return exists(path)

    def list(self, folder: str, suffix: str = "") -> list[str]:
        head = folder.partition("://")[0] + "://" if "://" in folder else ""
        # Cameras name pictures _MG_0001.jpg; what starts with a dot is a system's own.
        return [head + path for path, _ in list_files(folder, suffix, but=(".",))]


def list_hidden(folder: str, suffix: str = "") -> list[str]:
    """Paths of the files in a folder of our own bookkeeping, whose name starts with _; none where it is absent."""
    system, inner = resolve(folder)
    found = system.get_file_info(fs.FileSelector(inner, allow_not_found=True))
    return sorted(f.path for f in found if f.type == fs.FileType.File and f.path.endswith(suffix))


def parquet_files(folder: str, *, what: str = "samples") -> list[str]:
    """Parquet files under a folder. Raises ValueError where there is no such folder or it holds none."""
    if not exists(folder):
        raise ValueError(f"no {what} at {folder}: it does not exist")
    files = [path for path, _ in list_files(folder, ".parquet")]
    if not files:
        raise ValueError(f"no {what} at {folder}: the folder holds no .parquet file")
    return files


def read_parquet(folder: str, *, columns: list[str] | None = None, what: str = "samples") -> pa.Table:
    """All rows of a (small) Parquet folder as one table. Raises ValueError where there are none."""
    system, _ = resolve(folder)
    files = parquet_files(folder, what=what)
    return pa.concat_tables(pq.ParquetFile(system.open_input_file(path)).read(columns=columns) for path in files)


def parquet_schema(folder: str, *, what: str = "samples") -> pa.Schema:
    """Schema, with metadata, of the folder's first file."""
    system, _ = resolve(folder)
    return pq.read_schema(parquet_files(folder, what=what)[0], filesystem=system)


def write_parquet(table: pa.Table, path: str) -> None:
    """Write one file whole or not at all (a temporary name, then a rename)."""
    with writing_parquet(path, table.schema) as write:
        write(table)


@contextlib.contextmanager
def writing_parquet(path: str, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """What appends rows to a file that is there, whole, once the block has ended without an error."""
    system, inner = resolve(path)
    folder, _, name = inner.rpartition("/")
    system.create_dir(folder, recursive=True)
    pending = f"{folder}/{_pending(name)}"
    # Pictures and coordinates hardly repeat: a dictionary of them made files larger and reading three times as slow.
    texts = [field.name for field in schema if pa.types.is_string(field.type)]
    # JPEGs are compressed already. What is not named here would not be compressed at all.
    compression = {leaf: "NONE" if leaf == "image" else "SNAPPY" for field in schema for leaf in _leaves(field)}
    with (
        _whole_or_not(system, pending, inner),
        pq.ParquetWriter(pending, schema, filesystem=system, use_dictionary=texts, compression=compression) as writer,  # pyright: ignore[reportArgumentType]
    ):
        yield lambda table: writer.write_table(table, row_group_size=ROW_GROUP)


def _leaves(field: pa.Field, within: str = "") -> Iterator[str]:
    """What Parquet calls the columns that a field becomes."""
    path = f"{within}{field.name}"
    if pa.types.is_struct(field.type):
        for inner in field.type.fields:
            yield from _leaves(inner, f"{path}.")
    elif pa.types.is_list(field.type) or pa.types.is_fixed_size_list(field.type):
        yield from _leaves(field.type.value_field.with_name("list.element"), f"{path}.")
    else:
        yield path


def write_bytes(path: str, data: bytes) -> None:
    """Write one file whole or not at all. An object appears whole by itself; a file needs a rename."""
    system, inner = resolve(path)
    folder, _, name = inner.rpartition("/")
    remote = "://" in path
    pending = inner if remote else f"{folder}/{_pending(name)}"

    def write() -> None:
        if not remote:
            system.create_dir(folder, recursive=True)
        with system.open_output_stream(pending) as stream:
            stream.write(data)
        if not remote:
            system.move(pending, inner)

    patiently(path, write)


@contextlib.contextmanager
def writing(path: str) -> Iterator[BinaryIO]:
    """A stream to a file that is there, whole, once the block has ended without an error."""
    system, inner = resolve(path)
    folder, _, name = inner.rpartition("/")
    remote = "://" in path
    if remote:  # an object appears when its upload is complete, which an error must prevent
        with tempfile.TemporaryFile() as scratch:
            yield cast(BinaryIO, scratch)
            scratch.seek(0)
            with system.open_output_stream(inner) as stream:
                shutil.copyfileobj(scratch, stream, 1 << 22)
        return
    system.create_dir(folder, recursive=True)
    pending = f"{folder}/{_pending(name)}"
    with _whole_or_not(system, pending, inner), open(pending, "wb") as stream:
        yield stream


@contextlib.contextmanager
def _whole_or_not(system: fs.FileSystem, pending: str, final: str) -> Iterator[None]:
    """Give a file its name once the block has ended well; else it goes."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            system.delete_file(pending)
        raise
    system.move(pending, final)


def _pending(name: str) -> str:
    """A name of its own for each write: two writers of one file must not mix."""
    return f"{PENDING}{uuid.uuid4().hex[:8]}-{name}"


def sweep(folder: str) -> None:
    """Delete what killed writers left half-written in a folder that nobody else writes."""
    system, inner = resolve(folder)
    for info in system.get_file_info(fs.FileSelector(inner, allow_not_found=True)):
        if info.base_name.startswith(PENDING):
            system.delete_file(info.path)


def patiently(path: str, work: Callable[[], Result]) -> Result:
    """Do what reads or writes `path`; in object storage up to five times, each after a longer wait.

    Stores throttle and connections break; what is absent or forbidden stays so. Raises the last error.
    """
    for wait_s in (0.5, 1.0, 2.0, 4.0) if "://" in path else ():
        try:
            return work()
        except (FileNotFoundError, PermissionError):
            raise
        except OSError:
            time.sleep(wait_s * random.uniform(0.5, 1.5))
    return work()


def read_bytes(path: str) -> bytes:
    system, inner = resolve(path)

    def read() -> bytes:
        with system.open_input_file(inner) as file:  # a stream would ask for it in many small pieces
            return file.read()

    return patiently(path, read)


def write_json(path: str, value: Any) -> None:
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=2, default=str) + "\n").encode()


def read_json(path: str) -> Any:
    try:
        return json.loads(read_bytes(path))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def is_empty(folder: str, *, but: str = "") -> bool:
    """No file and no folder is there, hidden ones included, but for one of that name."""
    system, inner = resolve(folder)
    found = system.get_file_info(fs.FileSelector(inner, allow_not_found=True))
    return all(but and info.base_name.endswith(but) for info in found)


def delete(path: str) -> None:
    """Delete a file, if it is there."""
    system, inner = resolve(path)
    if system.get_file_info(inner).type == fs.FileType.File:
        system.delete_file(inner)


def delete_contents(folder: str, *, keep: str = "") -> None:
    """Delete what a folder holds, but for the file of that name."""
    system, inner = resolve(folder)
    if not keep:
        system.delete_dir_contents(inner, missing_dir_ok=True)
        return
    for info in system.get_file_info(fs.FileSelector(inner, allow_not_found=True)):
        if info.type == fs.FileType.Directory:
            system.delete_dir(info.path)
        elif info.base_name != keep:
            system.delete_file(info.path)


def read_image(uri: str | None) -> bytes | None:
    """Bytes of a picture that a sample points at; None where nothing is there (the caller quarantines).

    Raises OSError where an object store does not answer: that says nothing about the picture.
    """
    if not uri:
        return None
    try:
        return read_bytes(uri)
    except (FileNotFoundError, PermissionError):
        return None
    except OSError:
        if "://" in uri:
            raise
        return None
