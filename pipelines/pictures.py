"""The pictures of people as they are ingested: files, frames of videos, or bytes that an annotation file holds."""

from __future__ import annotations

import tempfile

import numpy as np

from mesh_lib.datasets.images import BadImage, decode
from mesh_lib.datasets.people import Person
from mesh_lib.datasets.videos import Video
from pipelines import storage


class Pictures:
    """Reads pictures, the last one only once."""

    def __init__(self) -> None:
        self.last: tuple[str, int | None] | None = None
        self.held: tuple[np.ndarray, bytes | None] | BadImage = BadImage("nothing was read yet")
        self.video: tuple[str, Video] | None = None
        self.copy: tempfile._TemporaryFileWrapper[bytes] | None = None

    def read(self, person: Person) -> tuple[np.ndarray, bytes | None]:
        """RGB pixels and the file that they come from, None for a video's frame. Raises BadImage."""
        if person.image is not None:
            return decode(person.image), person.image
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
            return self._open(path).frame(frame), None
        data = storage.read_image(path)
        return decode(data), data

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
