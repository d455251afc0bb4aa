"""Frames of videos, through OpenCV: in order they are cheap, backwards they cost a new start."""

from __future__ import annotations

import cv2
import numpy as np

from mesh_lib.datasets.images import BadImage


class Video:
    """One open video on a local disk."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.capture = cv2.VideoCapture(path)
        self.next = 0

    def frame_bgr(self, number: int) -> np.ndarray:
        """uint8 (H, W, 3) of a frame, counted from 0. Raises BadImage where the video has no such frame."""
        if number < self.next:
            self.capture.release()
            self.capture, self.next = cv2.VideoCapture(self.path), 0
        # Seeking by number is wrong in many codecs; decoding forward is right in all.
        while self.next < number:
            if not self.capture.grab():
                raise BadImage(f"{self.path} has no frame {number}: it ends at {self.next}")
            self.next += 1
        done, picture = self.capture.read()
        if not done:
            raise BadImage(f"{self.path} has no frame {number}, or cannot be decoded")
        self.next += 1
        return picture
