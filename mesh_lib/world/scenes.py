"""One person in one picture, with the whole truth: four domains that play the papers' datasets (docs/open_world.md).

A sample depends on (seed, domain, index) and the assets alone, never on what was drawn before it or where.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8

from mesh_lib.body.files import Body
from mesh_lib.body.joints import BODY33, SMPL24
from mesh_lib.body.layer import BodyLayer, KeypointLayer
from mesh_lib.render.raster import cast
from mesh_lib.world import backgrounds, props
from mesh_lib.world.appearance import BodySurface, Light, Outfit, draw_outfit, light_up, paint
from mesh_lib.world.placement import STUDIO_ROOMS, Figure, place_in_street, place_in_studio
from mesh_lib.world.poses import Poses, sample_poses
from mesh_lib.world.skeleton import quat_to_rotvec, rotmat_to_quat, rotvec_to_rotmat
from mesh_lib.world.view import View

Domain = Literal["studio", "street", "street3d", "street_test"]
DOMAINS: tuple[Domain, ...] = get_args(Domain)
POSE_BLOCK = 256
STUDIO_SUBJECTS = 7
FEWEST_VISIBLE = 12
"""An occluder that leaves fewer keypoints than this is taken away again."""


@dataclass(frozen=True)
class Sample:
    """A picture of one person and its truth. Camera frame: x right, y down, z away; metres, radians."""

    image: UInt8[np.ndarray, "size size 3"]
    jpeg_quality: int
    global_orient: Float[np.ndarray, " 3"]
    body_pose: Float[np.ndarray, " 69"]
    betas: Float[np.ndarray, " 10"]
    transl_m: Float[np.ndarray, " 3"]
    """Camera-frame points are the body layer's output under `global_orient`, plus this."""
    focal_px: Float[np.ndarray, " 2"]
    princpt_px: Float[np.ndarray, " 2"]
    keypoints_2d_px: Float[np.ndarray, "33 3"]
    """BODY33: x, y and 1 where inside the picture and not behind an occluder (the person may hide it), else 0."""
    keypoints_3d_m: Float[np.ndarray, "33 4"]
    bbox_xywh_px: Float[np.ndarray, " 4"]
    """Around the visible person."""
    person: Bool[np.ndarray, "size size"]
    """Pixels of the person that nothing hides."""
    activity: str

    def jpeg(self) -> bytes:
        """The picture as it is stored."""
        quality = [cv2.IMWRITE_JPEG_QUALITY, self.jpeg_quality]
        return cv2.imencode(".jpg", self.image[..., ::-1], quality)[1].tobytes()


class OpenWorld:
    """Assets of the open world, loaded once a process."""

    def __init__(
        self, body: Body, *, seed: int, size: int = 256, photos: Sequence[Path] = (), mocap: Sequence[Poses] = ()
    ) -> None:
        """photos replace the drawn places of the street domains; mocap holds clips, the last fifth of which only
        `street_test` plays."""
        self.seed, self.size, self.photos = seed, size, photos
        unseen = max(1, len(mocap) // 5) if len(mocap) > 1 else 0  # whole clips: a clip's frames are all alike
        self._clips, self._clips_of_test = mocap[: len(mocap) - unseen], mocap[len(mocap) - unseen :]
        self._layer, self._keypoints = BodyLayer(body), KeypointLayer(body, BODY33)
        template = np.asarray(body.v_template, np.float32)
        self.surface = BodySurface(
            template_m=template,
            joints_m=np.asarray(body.J_regressor @ template, np.float32),
            faces=np.asarray(body.faces, np.int64),
            dominant_joint=np.asarray(body.weights).argmax(1),
        )
        self.joint_count = len(self.surface.joints_m)
        self.beta_count = body.shapedirs.shape[2]
        self._pose_block = lru_cache(maxsize=8)(self._draw_pose_block)
        self._studio_backgrounds: dict[int, np.ndarray] = {}

    def _draw_pose_block(self, domain: Domain, block: int) -> Poses:
        return sample_poses(POSE_BLOCK, seed=(self.seed, DOMAINS.index(domain), block, 1))

    def render(self, domain: Domain, index: int) -> Sample:
        """Sample `index` of a domain."""
        rng = np.random.default_rng((self.seed, DOMAINS.index(domain), index, 0))
        orient, body_pose, activity = self._draw_pose(rng, domain, index)
        betas = self._draw_shape(rng, domain)
        figure = self.pose_figure(orient, body_pose, betas, lifts=activity == "jump")
        placed = place_in_studio if domain == "studio" else place_in_street
        view, root_cam_m, place = placed(rng, figure, size=self.size, activity=activity)
        return _Picture(self, rng, domain, figure, view, root_cam_m, place).finish(orient, body_pose, betas, activity)

    def _draw_pose(self, rng: np.random.Generator, domain: Domain, index: int) -> tuple[np.ndarray, np.ndarray, str]:
        poses, row = self._pose_block(domain, index // POSE_BLOCK), index % POSE_BLOCK
        clips = self._clips_of_test if domain == "street_test" else self._clips
        if clips and rng.random() < 0.5:
            frame = int(rng.integers(sum(map(len, clips))))
            for poses in clips:
                if frame < len(poses):
                    row = frame
                    break
                frame -= len(poses)
        return poses.global_orient_rotvec[row], poses.body_pose_rotvec[row], str(poses.activity[row])

    def _draw_shape(self, rng: np.random.Generator, domain: Domain) -> np.ndarray:
        if domain == "studio":  # a handful of people, each seen often
            rng = np.random.default_rng((self.seed, 77, int(rng.integers(STUDIO_SUBJECTS))))
        return np.clip(rng.standard_normal(10), -2.5, 2.5).astype(np.float32)

    def pose_figure(self, orient: np.ndarray, body_pose: np.ndarray, betas: np.ndarray, *, lifts: bool) -> Figure:
        rotvecs = np.zeros((self.joint_count, 3))
        rotvecs[0], rotvecs[1:24] = orient, body_pose[: min(23, self.joint_count - 1)]
        shape = np.zeros(self.beta_count, np.float32)
        shape[: min(10, self.beta_count)] = betas[: self.beta_count]
        rotmats = torch.from_numpy(rotvec_to_rotmat(rotvecs).astype(np.float32))
        with torch.no_grad():
            posed = self._layer(rotmats=rotmats, betas=torch.from_numpy(shape))
            keypoints = self._keypoints(rotmats=rotmats, betas=torch.from_numpy(shape)).numpy()
        root = posed.joints_m[0].numpy()
        return Figure(
            vertices_m=posed.vertices_m.numpy() - root,
            keypoints_m=keypoints - root,
            joints_m=posed.joints_m.numpy()[: len(SMPL24)] - root,
            root_m=root,
            lifts=lifts,
        )


@dataclass(frozen=True)
class _Picture:
    """The steps from a placed figure to a sample."""

    world: OpenWorld
    rng: np.random.Generator
    domain: Domain
    figure: Figure
    view: View
    root_cam_m: np.ndarray
    place: int

    def camera(self, points_m: np.ndarray) -> np.ndarray:
        return points_m @ self.view.R_cam_world.T + self.root_cam_m

    @cached_property
    def keypoints_cam_m(self) -> np.ndarray:
        return self.camera(self.figure.keypoints_m.astype(np.float64))

    def finish(self, orient: np.ndarray, body_pose: np.ndarray, betas: np.ndarray, activity: str) -> Sample:
        size, view = self.world.size, self.view
        light = self._light()
        canvas = self._background(light)
        person = self._draw_person(canvas, light)
        hidden = self._occlude(canvas)
        keypoints = self._visible_keypoints(hidden)
        image, quality = self._develop(canvas)
        rotation = view.R_cam_world @ rotvec_to_rotmat(orient.astype(np.float64))
        visible = person & ~hidden
        return Sample(
            image=image,
            jpeg_quality=quality,
            global_orient=quat_to_rotvec(rotmat_to_quat(rotation)).astype(np.float32),
            body_pose=body_pose.ravel().astype(np.float32),
            betas=betas,
            transl_m=(self.root_cam_m - self.figure.root_m).astype(np.float32),
            focal_px=np.full(2, view.focal_px, np.float32),
            princpt_px=np.array(view.princpt_px, np.float32),
            keypoints_2d_px=keypoints,
            keypoints_3d_m=np.concatenate([self.keypoints_cam_m, np.ones((33, 1))], 1).astype(np.float32),
            bbox_xywh_px=_box_around(visible, keypoints, size),
            person=visible,
            activity=activity,
        )

    def _light(self) -> Light:
        rng, view = self.rng, self.view
        up = view.up_cam
        if self.domain == "studio":
            towards = view.R_cam_world @ _unit(np.array([0.3, 1.0, 0.5]))
            return Light(towards, up, np.full(3, 0.35), np.full(3, 0.75))
        height, turn = np.deg2rad(rng.uniform(12, 80)), rng.uniform(0, 2 * np.pi)
        direction = np.array([np.cos(height) * np.sin(turn), np.sin(height), np.cos(height) * np.cos(turn)])
        strength, warmth = rng.uniform(0.15, 1.0), rng.normal(0, 0.08)
        tint = np.array([1 + warmth, 1, 1 - warmth])
        return Light(
            view.R_cam_world @ direction,
            up,
            strength * 1.1 * tint,
            (1.05 - 0.75 * strength) / tint,
            rng.choice((0, 0, 0.25)),
        )

    def _background(self, light: Light) -> np.ndarray:
        rng, view, world = self.rng, self.view, self.world
        if self.domain == "studio":
            if self.place not in world._studio_backgrounds:
                world._studio_backgrounds[self.place] = backgrounds.paint_studio(view, self.place % STUDIO_ROOMS)
            canvas = world._studio_backgrounds[self.place].copy()
        elif world.photos:
            canvas = backgrounds.paint_photo(
                rng, _read_photo(world.photos[int(rng.integers(len(world.photos)))]), view.size
            )
        else:
            kind = "unseen" if self.domain == "street_test" else "street"
            canvas = backgrounds.paint_place(rng, view, kind) * rng.uniform(0.8, 1.15)
        canvas = np.ascontiguousarray(canvas, np.float32)
        lamp = float(light.colour.mean())
        shadow = props.cast_shadow(
            view, self.camera(self.figure.joints_m), light.towards, softness_px=2.5 if self.domain == "studio" else 1.0
        )
        ground = (view.rays_world[:, 1] < 0).reshape(shadow.shape)
        canvas *= 1 - (shadow * ground * lamp / (lamp + float(light.ambient.mean())))[..., None]
        if self.domain != "studio" and rng.random() < 0.75:
            others = world._pose_block(self.domain, 0)
            props.draw_behind(rng, canvas, view, others, count=int(rng.integers(1, 7)))
        return canvas

    def _draw_person(self, canvas: np.ndarray, light: Light) -> np.ndarray:
        surface, view = self.world.surface, self.view
        vertices = self.camera(self.figure.vertices_m).astype(np.float32)
        style = {"studio": "tight", "street_test": "unseen"}.get(self.domain, "varied")
        return draw_body(
            canvas, surface, vertices, draw_outfit(self.rng, style), light,  # type: ignore[arg-type]
            focal_px=view.focal_px, princpt_px=view.princpt_px,
        )  # fmt: skip

    def _occlude(self, canvas: np.ndarray) -> np.ndarray:
        nothing = np.zeros(canvas.shape[:2], bool)
        if self.domain == "studio" or self.rng.random() > 0.35:
            return nothing
        before = canvas.copy()
        hidden = props.draw_in_front(self.rng, canvas, self.view, self.world._pose_block(self.domain, 0))
        if self._visible_keypoints(hidden)[:, 2].sum() < FEWEST_VISIBLE:
            canvas[:] = before
            return nothing
        return hidden

    def _visible_keypoints(self, hidden: np.ndarray) -> np.ndarray:
        pixels = self.view.project(self.keypoints_cam_m)
        nearest = np.round(pixels).astype(int)
        inside = ((nearest >= 0) & (nearest < self.view.size)).all(1)
        x, y = np.clip(nearest, 0, self.view.size - 1).T
        return np.concatenate([pixels, (inside & ~hidden[y, x])[:, None]], 1).astype(np.float32)

    def _develop(self, canvas: np.ndarray) -> tuple[np.ndarray, int]:
        """Lens, sensor and file: softness, exposure, noise, and the quality of the JPEG."""
        rng = self.rng
        if self.domain == "studio":
            blur, exposure, grain, quality = 0.5, 1.0, 0.008, 95
        else:
            blur, exposure = rng.choice((0.4, 0.5, 0.6, 1.0)), np.exp(rng.normal(0, 0.18))
            grain, quality = rng.choice((0.004, 0.01, 0.03)), int(rng.integers(45, 96))
        canvas = cv2.GaussianBlur(canvas, (0, 0), float(blur)) * np.float32(exposure)
        noise_at = rng.integers(0, backgrounds.NOISE_SIDE, 2)
        rows, columns = np.indices(canvas.shape[:2])
        canvas += np.float32(2 * grain) * backgrounds.noise(0, columns + noise_at[0], rows + noise_at[1])[..., None]
        return np.clip(canvas * 255 + 0.5, 0, 255).astype(np.uint8), quality


def draw_body(
    canvas: np.ndarray, surface: BodySurface, vertices_cam_m: np.ndarray, outfit: Outfit, light: Light,
    *, focal_px: float, princpt_px: tuple[float, float],
) -> np.ndarray:  # fmt: skip
    """Paint a dressed body onto a picture; returns its pixels."""
    normals = surface.face_normals(vertices_cam_m)
    # Faces that look away are never seen on a closed surface; without them the ray caster's tree is half as large.
    towards = np.flatnonzero((normals * vertices_cam_m[surface.faces[:, 0]]).sum(1) < 0)
    hits = cast(
        vertices_cam_m, surface.faces[towards], focal_px=np.full(2, focal_px), princpt_px=np.array(princpt_px),
        size_wh=(canvas.shape[1], canvas.shape[0]),
    )  # fmt: skip
    seen = hits.mask
    faces, weights = towards[hits.face[seen]], hits.barycentric[seen]
    corner_normals = surface.vertex_normals(normals)[surface.faces[faces]]
    colour = paint(surface, outfit, faces, weights)
    canvas[seen] = light_up(colour, np.einsum("pk,pkc->pc", weights, corner_normals), light)
    return seen


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def _box_around(visible: np.ndarray, keypoints: np.ndarray, size: int) -> np.ndarray:
    """x, y, width, height around the visible pixels and keypoints, inside the picture."""
    rows, columns = np.nonzero(visible)
    seen = np.clip(keypoints[keypoints[:, 2] > 0, :2], 0, size - 1)
    x, y = np.concatenate([columns, seen[:, 0]]), np.concatenate([rows, seen[:, 1]])
    return np.array([x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1], np.float32)


@lru_cache(maxsize=64)
def _read_photo(path: Path) -> np.ndarray:
    """A photo of at most 720 pixels a side. Raises ValueError where it is no picture."""
    image = cv2.imread(str(path), cv2.IMREAD_REDUCED_COLOR_2 if path.stat().st_size > 1_000_000 else cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path} is not a readable picture\n  fix: remove it from the background folder")
    scale = min(1.0, 720 / max(image.shape[:2]))
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)[..., ::-1].copy()
