"""One mesh file a person: .obj, .ply or .glb.

.obj and .ply are in the label's camera frame (x right, y down, z away; metres), translation included: projecting their
vertices with the label's `focal_px` and `princpt_px` lands on the person. .glb is in glTF's frame, y up, z towards the
viewer (x, -y, -z), so that viewers show people upright.
"""

from __future__ import annotations

import numpy as np
import trimesh

KINDS = ("obj", "ply", "glb")


def mesh_bytes(vertices_m: np.ndarray, faces: np.ndarray, kind: str) -> bytes:
    """(V, 3) camera-frame vertices and (F, 3) faces as a file."""
    if kind == "glb":
        vertices_m = vertices_m * np.array([1.0, -1.0, -1.0])
    mesh = trimesh.Trimesh(vertices_m, faces, process=False)
    data = mesh.export(file_type=kind)
    assert isinstance(data, (str, bytes))
    return data.encode() if isinstance(data, str) else data
