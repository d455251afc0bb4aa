"""The pictures of people as they are ingested: files, frames of videos, or bytes that an annotation file holds."""

from __future__ import annotations

import tempfile

import numpy as np

from mesh_lib.datasets.images import BadImage, decode
from mesh_lib.datasets.people import Person
from mesh_lib.datasets.videos import Video
from pipelines import storage

EXIF_WITHIN = 1 << 16
"""Bytes of a file's head that its EXIF lies in."""


class Pictures:
    """Reads pictures, the last one only once; turned as their EXIF says, where that is asked for."""

    def __init__(self, *, turn: bool = False) -> None:
        self.turn = turn
        self.last: tuple[str, int | None] | None = None
        self.held: tuple[np.ndarray, bytes | None] | BadImage = BadImage("nothing was read yet")
        self.video: tuple[str, Video] | None = None
        self.copy: tempfile._TemporaryFileWrapper[bytes] | None = None

    def read_bgr(self, person: Person) -> tuple[np.ndarray, bytes | None]:
        """Pixels in OpenCV's order, since they are encoded again, and the file that holds them as they are, None for a
        video's frame and for what may have been turned. Raises BadImage."""
        if person.image is not None:
            return self._decode(person.image)
        place = person.picture, person.video_frame
        if place != self.last:
            self.last = place
            try:
                self.held = self._read(*place)
            except BadImage as error:
                self.held = error
        if isinstance(self.held, BadImage):
            raise self.held
        return self.held

    def _read(self, path: str, frame: int | None) -> tuple[np.ndarray, bytes | None]:
        if frame is not None:
            return self._open(path).frame_bgr(frame), None
        return self._decode(storage.read_image(path))

    def _decode(self, data: bytes | None) -> tuple[np.ndarray, bytes | None]:
        picture = decode(data, turn=self.turn, order="BGR")
        head = (data or b"")[:EXIF_WITHIN]
        return picture, None if self.turn and (b"Exif\0\0" in head or b"eXIf" in head) else data

    def _open(self, path: str) -> Video:
        if self.video is None or self.video[0] != path:
            if not storage.exists(path):
                raise BadImage(f"no video at {path}", reason="missing_image")
            local = path
            if "://" in path:  # OpenCV opens files of this machine alone
                self.copy = tempfile.NamedTemporaryFile(suffix=path[-4:])  # noqa: SIM115
                self.copy.write(storage.read_bytes(path))
                self.copy.flush()
                local = self.copy.name
            self.video = path, Video(local)
        return self.video[1]
