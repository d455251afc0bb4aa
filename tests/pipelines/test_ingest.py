"""Ingest: nobody is lost, stored crops lead back to the picture, and mistakes are named."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
import ray

from jobs import report as report_job
from jobs.ingest import Job, main
from mesh_lib import tables
from mesh_lib.body.joints import COCO17
from mesh_lib.datasets.coco import Coco
from mesh_lib.datasets.folder import Folder
from mesh_lib.datasets.images import BadImage, decode, encode_jpeg
from mesh_lib.datasets.people import Files, Person, Reader
from mesh_lib.datasets.readers import READERS
from pipelines import runs, storage
from pipelines.crops import prepare
from pipelines.ingest import IngestStage, _People, _Shard, store
from pipelines.pictures import Pictures
from pipelines.report_samples import report_samples
from tests.photos import with_orientation

pytestmark = pytest.mark.ray


def ingest(photos: Path, out: Path, stage: IngestStage | None = None) -> Path:
    reader = Coco(annotations=str(photos / "keypoints.json"), images=str(photos))
    main(Job(reader=reader, out=str(out), stage=stage or IngestStage()))
    return out


def test_everyone_is_kept_or_counted(ray_cluster: None, photos: Path, tmp_path: Path) -> None:
    out = ingest(photos, tmp_path / "out")
    rows = storage.read_parquet(str(out))
    assert sorted(rows["person_id"].to_pylist()) == ["1", "4", "5", "6", "7"]
    found = runs.load_run(out, job="ingest")["result"]
    assert found == {"rows": 5, "unreadable_pictures": 2, "skipped": {"no_keypoints": 1, "too_few_keypoints": 1}}
    assert tables.joint_set_of(rows.schema, where="out") == COCO17
    assert set(rows["supervision"].to_pylist()) == {"itw_2d"} and not any(rows["smpl_valid"].to_pylist())


def test_the_least_number_of_keypoints_is_a_setting(ray_cluster: None, photos: Path, tmp_path: Path) -> None:
    out = ingest(photos, tmp_path / "out", IngestStage(min_keypoints=3))
    assert "3" in storage.read_parquet(str(out))["person_id"].to_pylist()


@pytest.mark.parametrize("box", [(90, 50, 100, 170), (250, 150, 200, 300), (2, 2, 316, 236)])
def test_a_stored_crop_leads_back_to_the_picture(box: tuple[int, ...]) -> None:
    """A smooth picture whose colours are its coordinates says where each stored pixel came from."""
    y, x = np.mgrid[0:240, 0:320].astype(np.float64)
    picture = np.stack([x * 0, y, x * 0.7], axis=2).astype(np.uint8)  # BGR
    data, affine = store(picture, b"", box, IngestStage(margin=1.5, max_side_px=96))
    crop = decode(data).astype(float)
    at = np.array([[10, 10], [40, 30], [60, 70]])
    at = at[(at < np.array(crop.shape[1::-1])).all(axis=1)]
    places = at @ affine[:, :2].T + affine[:, 2]
    for (column, row), (px, py) in zip(at, places, strict=True):
        assert abs(crop[row, column, 0] / 0.7 - px) < 4 and abs(crop[row, column, 1] - py) < 3


def test_the_whole_picture_or_only_its_place_can_be_stored(ray_cluster: None, photos: Path, tmp_path: Path) -> None:
    whole = storage.read_parquet(str(ingest(photos, tmp_path / "whole", IngestStage(store="whole"))))
    uri = storage.read_parquet(str(ingest(photos, tmp_path / "uri", IngestStage(store="uri"))))
    first = whole["image"].to_pylist()[0]
    assert first == (photos / "a.jpg").read_bytes()
    assert uri["image"].null_count == uri.num_rows and uri["image_uri"].to_pylist()[0].endswith("photos/a.jpg")


def test_mistakes_are_named(ray_cluster: None, photos: Path, tmp_path: Path) -> None:
    reader = Coco(annotations=str(photos / "keypoints.json"), images=str(photos))

    def run(out: str = "out", **changed: str) -> None:
        main(Job(reader=dataclasses.replace(reader, **changed), out=str(tmp_path / out)))

    with pytest.raises(ValueError, match=r"no annotation file at .*nope"):
        run(annotations=str(photos / "nope.json"))
    (photos / "other.json").write_text(json.dumps({"pictures": []}))
    with pytest.raises(ValueError, match="has no `images`"):
        run(annotations=str(photos / "other.json"))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="none of the pictures is under"):
        run(images=str(empty))
    with pytest.raises(ValueError, match="no such input"):
        run("out2", images=str(tmp_path / "gone"))
    (photos / "nobody.json").write_text(json.dumps({"images": [], "annotations": []}))
    with pytest.raises(ValueError, match="no person to keep"):
        run("out3", annotations=str(photos / "nobody.json"))
    with pytest.raises(ValueError, match="store is crop, whole or uri"):
        IngestStage(store="all")


def test_a_person_with_two_records_of_one_id_is_refused(ray_cluster: None, photos: Path, tmp_path: Path) -> None:
    content = json.loads((photos / "keypoints.json").read_text())
    content["annotations"].append(content["annotations"][0])
    (photos / "keypoints.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="appears twice"):
        ingest(photos, tmp_path / "out")


def test_an_ingest_that_was_killed_goes_on_past_its_shards(
    ray_cluster: None, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.ingest.SHARD_ROWS", 2)
    out = ingest(photos, tmp_path / "out")
    whole = storage.read_parquet(str(out))
    shards = sorted(out.glob("part-*.parquet"))
    assert len(shards) == 3
    before = {path: path.stat().st_mtime_ns for path in shards}
    found = runs.load_run(out, job="ingest")["result"]
    shards[1].unlink()
    record = json.loads((out / "run.json").read_text()) | {"status": "running"}
    (out / "run.json").write_text(json.dumps(record))
    ingest(photos, out)
    assert runs.load_run(out, job="ingest")["result"] == found
    assert str(storage.read_parquet(str(out)).to_pylist()) == str(whole.to_pylist())  # as text: a NaN is not itself
    after = {path: path.stat().st_mtime_ns for path in shards}
    assert [after[path] == before[path] for path in shards] == [True, False, True]


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_an_ingest_goes_on_with_shards_of_another_size(
    ray_cluster: None, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """As after an upgrade: what stands is of other people, or of nobody's shard any more."""
    monkeypatch.setattr("pipelines.ingest.SHARD_ROWS", 2)
    out = ingest(photos, tmp_path / "out")
    whole = storage.read_parquet(str(out)).sort_by("sample_id")
    (out / "part-00000-00002.parquet").unlink()
    record = json.loads((out / "run.json").read_text()) | {"status": "running"}
    (out / "run.json").write_text(json.dumps(record))
    monkeypatch.setattr("pipelines.ingest.SHARD_ROWS", size)
    ingest(photos, out)
    assert str(storage.read_parquet(str(out)).sort_by("sample_id").to_pylist()) == str(whole.to_pylist())


def test_half_a_download_is_refused_before_any_picture_is_cut(
    ray_cluster: None, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.ingest.SHARD_ROWS", 1)
    path = photos / "keypoints.json"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"keypoints\.json is not JSON of an object: the file is truncated or damaged"):
        ingest(photos, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.parquet"))


def test_a_dangerous_picture_is_quarantined_and_costs_nobody_else(
    ray_cluster: None, photos: Path, tmp_path: Path
) -> None:
    """A few bytes that claim 100,000 × 100,000 pixels."""
    head = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + b"IHDR" + 2 * (100_000).to_bytes(4, "big")
    (photos / "gone.jpg").write_bytes(head + b"\x08\x02\0\0\0" + b"\0\0\0\0IEND\xaeB`\x82")
    rows = storage.read_parquet(str(ingest(photos, tmp_path / "out")))
    status = prepare(rows, input_size=(64, 64), joint_set=COCO17)["status"]
    by_person = dict(zip(rows["person_id"].to_pylist(), status, strict=True))
    assert by_person["5"] == "image_too_large" and by_person["1"] == "ok"


def test_a_name_that_climbs_out_of_the_folder_is_refused(ray_cluster: None, photos: Path, tmp_path: Path) -> None:
    content = json.loads((photos / "keypoints.json").read_text())
    content["images"][0]["file_name"] = "../../etc/passwd"
    (photos / "keypoints.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="leaves the folder"):
        ingest(photos, tmp_path / "out")


def test_every_way_that_people_have_a_picture(tmp_path: Path) -> None:
    """A file, bytes of an annotation file, a frame of a video; each read once for all people in it."""
    grey = np.full((48, 64, 3), 90, np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), grey)
    video = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for number in range(6):
        video.write(np.full((48, 64, 3), 40 * number, np.uint8))
    video.release()

    def person(picture: str, **more: Any) -> Person:
        return Person(image_id="1", person_id="1", picture=picture, keypoints_2d_px=np.ones((17, 3)), **more)

    pictures = Pictures()
    first, data = pictures.read_bgr(person(str(tmp_path / "a.png")))
    again, _ = pictures.read_bgr(person(str(tmp_path / "a.png")))
    assert again is first and data == (tmp_path / "a.png").read_bytes() and (first == 90).all()
    assert (pictures.read_bgr(person("", image=data))[0] == 90).all()
    for number in (1, 4, 2):
        frame, none = pictures.read_bgr(person(str(tmp_path / "v.avi"), video_frame=number))
        assert none is None and abs(float(frame.mean()) - 40 * number) < 4
    for missing in (person(str(tmp_path / "v.avi"), video_frame=6), person(str(tmp_path / "w.avi"), video_frame=0)):
        with pytest.raises(BadImage):
            pictures.read_bgr(missing)


@pytest.mark.parametrize("turn", [False, True])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.avi"])
def test_red_stays_red(tmp_path: Path, name: str, turn: bool) -> None:
    path, blue_green_red = str(tmp_path / name), np.full((48, 64, 3), (20, 90, 200), np.uint8)
    if name.endswith(".avi"):
        video = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
        video.write(blue_green_red)
        video.release()
    else:
        cv2.imwrite(path, blue_green_red)
        if turn and name.endswith(".jpg"):
            Path(path).write_bytes(with_orientation(Path(path).read_bytes(), 6))
    frame = 0 if name.endswith(".avi") else None
    person = Person(image_id="1", person_id="1", picture=path, keypoints_2d_px=np.ones((17, 3)), video_frame=frame)
    picture, data = Pictures(turn=turn).read_bgr(person)
    for box in ((20, 10, 20, 20), (0, 0, 0, 0)):  # a crop, and a picture that is kept whole
        kept, _ = store(picture, data, box, IngestStage())
        np.testing.assert_allclose(decode(kept).mean(axis=(0, 1)), (200, 90, 20), atol=4)


@pytest.mark.parametrize("store", ["crop", "whole", "uri"])
def test_openpose_saw_pictures_turned_as_their_exif_says(ray_cluster: None, tmp_path: Path, store: str) -> None:
    """A phone's upright picture: its keypoints lie on what people see, and so does what is stored."""
    seen = np.zeros((320, 240, 3), np.uint8)
    seen[60:100, 100:140] = 255  # the nose
    stored = np.ascontiguousarray(np.rot90(seen))  # as the sensor saw it
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(with_orientation(encode_jpeg(stored), 6))
    (tmp_path / "keypoints").mkdir()
    body = [120, 80, 0.9, *[n for k in range(1, 25) for n in (100 + 2 * k, 90 + 8 * k, 0.9)]]
    people = [{"pose_keypoints_2d": body}]
    (tmp_path / "keypoints" / "a_keypoints.json").write_text(json.dumps({"version": 1.3, "people": people}))
    reader = Folder(images=str(tmp_path / "photos"), keypoints=str(tmp_path / "keypoints"))
    main(Job(reader=reader, out=str(tmp_path / "out"), stage=IngestStage(store=store)))
    table = storage.read_parquet(str(tmp_path / "out"))
    assert table["image_size"].to_pylist() == [[240, 320]]
    picture = decode(table["image"].to_pylist()[0])
    to_image = np.array(table["crop_to_image"].to_pylist()[0]).reshape(2, 3)
    x, y = np.linalg.solve(to_image[:, :2], np.array([120.0, 80]) - to_image[:, 2])
    assert picture[round(y), round(x)].min() > 200
    black = Folder(images=reader.images, keypoints=reader.keypoints, exif="ignore")
    assert not black.turns_pictures


@dataclasses.dataclass(frozen=True)
class Videos(Reader):
    """A person in each frame of two videos, and in three pictures."""

    folder: str
    joint_set = COCO17  # pyright: ignore[reportAssignmentType]

    @property
    def inputs(self) -> Sequence[str]:
        return (self.folder,)

    def units(self, files: Files) -> list[Any]:
        return [0]

    def people(self, unit: Any, files: Files, skipped: Counter[str]) -> Iterator[Person]:
        shown = [(f"{name}.avi", frame) for name in "vw" for frame in range(6)] + [(f"{i}.png", None) for i in range(3)]
        for number, (name, frame) in enumerate(shown):
            yield Person(
                image_id=str(number), person_id="0", picture=f"{self.folder}/{name}", video_frame=frame,
                keypoints_2d_px=np.full((17, 3), 9.0),
            )  # fmt: skip


def test_a_video_is_decoded_once_from_start_to_end(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole videos go into one shard, and through all of its row groups with one reader."""
    for name in "vw":
        video = cv2.VideoWriter(str(tmp_path / f"{name}.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
        for number in range(6):
            video.write(np.full((48, 64, 3), 40 * number, np.uint8))
        video.release()
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((48, 64, 3), np.uint8))
    reader, stage = Videos(str(tmp_path)), IngestStage()
    people = _People(reader, ray.put([0]), dataset="x", split="y", stage=stage)
    people.rows = 2
    monkeypatch.setattr(storage, "ROW_GROUP", 2)
    opened: list[str] = []
    capture = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda path: opened.append(path) or capture(path))
    counts = []
    for shard in people({"unit": np.array([0])}):
        found = _Shard(str(tmp_path / "out"), reader, stage)({name: np.array(v, object) for name, v in shard.items()})
        counts.append(len(found["keys"][0]) // 8)
    assert counts == [6, 6, 2, 1] and opened == [f"{tmp_path}/v.avi", f"{tmp_path}/w.avi"]
    shades = [decode(one).mean() for one in storage.read_parquet(str(tmp_path / "out"))["image"].to_pylist()]
    assert shades == pytest.approx([*range(0, 240, 40)] * 2 + [0] * 3, abs=4)


def test_a_folder_in_object_storage_is_read_like_one_on_disk(
    ray_cluster: None, photos: Path, tmp_path: Path, s3: str
) -> None:
    for path in photos.iterdir():
        storage.write_bytes(f"{s3}/photos/{path.name}", path.read_bytes())
    reader = Coco(annotations=f"{s3}/photos/keypoints.json", images=f"{s3}/photos")
    main(Job(reader=reader, out=f"{s3}/ingested"))
    here = storage.read_parquet(str(ingest(photos, tmp_path / "out")))
    there = storage.read_parquet(f"{s3}/ingested")
    there, here = (table.drop_columns(["image_uri"]).to_pylist() for table in (there, here))
    assert str(there) == str(here)


def test_the_report_of_samples_measures_how_far_3d_truth_lands_from_2d(
    ray_cluster: None, tiny_world: Path, tmp_path: Path
) -> None:
    exact = report_samples(str(tiny_world / "studio"), title="exact")
    assert exact.rows == 24 and len(exact.projection_px) > 300 and exact.projection_px.max() < 0.01
    table = storage.read_parquet(str(tiny_world / "studio"))
    moved = tables.numpy_column(table, "keypoints_2d_px", missing=0.0).reshape(24, -1, 3)
    moved = moved + np.array([3, -4, 0], np.float32)
    at = table.schema.get_field_index("keypoints_2d_px")
    column = pa.FixedSizeListArray.from_arrays(pa.array(moved.ravel()), type=table.schema.field(at).type)
    storage.write_parquet(table.set_column(at, table.schema.field(at), column), f"{tmp_path}/moved/part-0.parquet")
    page = report_samples(f"{tmp_path}/moved", title="moved")
    assert np.allclose(page.projection_px, 5, atol=0.01) and "5.00 px" in page.html


@pytest.mark.samples
@pytest.mark.parametrize(
    ("name", "options", "people"),
    [
        ("coco", {"annotations": "annotations/person_keypoints_val2017.json", "images": "val2017"}, 8),
        ("coco_wholebody", {"annotations": "annotations/coco_wholebody_val_v1.0.json", "images": "val2017"}, 4),
        ("crowdpose", {"annotations": "json/crowdpose_train.json", "images": "images"}, 2),
        ("mpii", {"annotations": "annot/trainval.json", "images": "images"}, 3),
        ("lspet", {"folder": "."}, 12),
        ("interhand", {"folder": "."}, 2),
    ],
)
def test_real_datasets_from_the_owners_files_to_a_report(
    ray_cluster: None, samples_dir: Path, tmp_path: Path, name: str, options: dict[str, str], people: int
) -> None:
    folder = samples_dir / {"interhand": "interhand2.6m"}.get(name, name)
    reader = READERS[name](**{option: str(folder / path) for option, path in options.items()})
    main(Job(reader=reader, out=str(tmp_path / "out"), stage=IngestStage(min_keypoints=1)))
    rows = storage.read_parquet(str(tmp_path / "out"))
    assert rows["image"].drop_null().length() >= people
    assert tables.joint_set_of(rows.schema, where="out") == reader.joint_set
    report_job.main(report_job.Job(samples=str(tmp_path / "out"), out=str(tmp_path / "page.html")))
    page = (tmp_path / "page.html").read_text()
    assert reader.joint_set.names[-1] in page and page.count("<figure") == min(24, len(rows))
    if name == "interhand":
        assert report_samples(str(tmp_path / "out"), title="x").projection_px.max() < 0.01


@pytest.mark.samples
def test_real_coco_pictures(ray_cluster: None, samples_dir: Path, tmp_path: Path) -> None:
    coco = samples_dir / "coco"
    annotations = coco / "annotations" / "person_keypoints_val2017.json"
    main(Job(reader=Coco(annotations=str(annotations), images=str(coco / "val2017")), out=str(tmp_path / "out")))
    rows = storage.read_parquet(str(tmp_path / "out"))
    assert len(rows) and not rows["image"].null_count
    for data, affine in zip(rows["image"].to_pylist(), rows["crop_to_image"].to_pylist(), strict=True):
        picture = decode(data)
        corner = np.array(affine).reshape(2, 3) @ [picture.shape[1] - 1, picture.shape[0] - 1, 1]
        assert (corner > 0).all()
