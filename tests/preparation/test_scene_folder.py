"""Scenes in ADE20K's layout come in from a folder, a zip or a tar file, checked, with their own classes."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, not_as_root, unreadable
from PIL import ExifTags, Image

from nepa.data.scenes import Classes
from nepa.errors import UserError
from nepa.parameters.schema import SceneFolder
from nepa.preparation.scene_folder import find_scenes, write_scene_folder

CAMVID = ROOT.parent / "shared/data/camvid.tar"
PICTURE = np.zeros((20, 30, 3), np.uint8)
Source = Callable[[Path, dict[str, bytes]], Path]


def encoded(array: np.ndarray, form: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, form)
    return file.getvalue()


def files() -> dict[str, bytes]:
    """Three training and two validation scenes of two classes, by path."""
    found = {"classes.txt": b"tree\nsky\n", "README.md": b"not looked at"}
    for split, count in (("training", 3), ("validation", 2)):
        for number in range(count):
            picture = np.full((20, 30, 3), 40 * number, np.uint8)
            found[f"images/{split}/scene_{number}.jpg"] = encoded(picture, "JPEG")
            truth = np.full((20, 30), number % 3, np.uint8)
            found[f"annotations/{split}/scene_{number}.png"] = encoded(truth, "PNG")
    return found


def as_folder(at: Path, contents: dict[str, bytes]) -> Path:
    for name, content in contents.items():
        (at / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
        (at / "raw" / name).write_bytes(content)
    return at / "raw"


def as_zip(at: Path, contents: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(at / "raw.zip", "w") as archive:
        for name, content in contents.items():
            archive.writestr(f"ADEChallengeData2016/{name}" if not name.startswith("..") else name, content)
    return at / "raw.zip"


def as_tar(at: Path, contents: dict[str, bytes]) -> Path:
    with tarfile.open(at / "raw.tar", "w") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return at / "raw.tar"


def write(source: Path, target: Path, training: int = 3, validation: int = 2) -> Classes:
    settings = SceneFolder(source="ade20k_layout", training=training, validation=validation)
    return write_scene_folder(settings, source, target)


@pytest.mark.parametrize("source", [as_folder, as_zip, as_tar])
def test_every_scene_byte_for_byte(tmp_path: Path, source: Source) -> None:
    classes = write(source(tmp_path, files()), tmp_path / "scenes")
    assert classes.names == ("tree", "sky") and len(set(classes.colours)) == 2
    found = {p.relative_to(tmp_path / "scenes").as_posix(): p.read_bytes() for p in (tmp_path / "scenes").rglob("*.*")}
    assert found == {name: content for name, content in files().items() if "/" in name}


def test_folders_may_be_links(tmp_path: Path) -> None:
    raw = as_folder(tmp_path, files())
    (tmp_path / "linked").mkdir()
    for path in raw.iterdir():
        (tmp_path / "linked" / path.name).symlink_to(path)
    write(tmp_path / "linked", tmp_path / "scenes")
    assert len(list((tmp_path / "scenes/images").rglob("*.jpg"))) == 5


def test_names_are_the_source_s_own(tmp_path: Path) -> None:
    """Folders in capitals and scenes with spaces are read; what is hidden is not."""
    contents = {name.replace("images/training/", "Images/Training/"): content for name, content in files().items()}
    contents = {name.replace("scene_1", "scène (1)"): content for name, content in contents.items()}
    contents |= {"images/training/._scene_0.jpg": b"what macOS adds", "annotations/training/._scene_0.png": b"too"}
    write(as_zip(tmp_path, contents), tmp_path / "scenes")
    found = sorted(path.name for path in (tmp_path / "scenes/images/training").iterdir())
    assert found == ["scene_0.jpg", "scene_2.jpg", "scène (1).jpg"]


def test_255_is_no_class(tmp_path: Path) -> None:
    """As in Pascal VOC's annotations: MMSegmentation neither trains on it nor scores it."""
    import nepa.segmentation  # noqa: F401 - lets MMSegmentation be imported

    # isort: split
    from mmseg.datasets.transforms import LoadAnnotations

    annotation = np.full((20, 30), 255, np.uint8)
    annotation[:5] = 2
    contents = files() | {"annotations/training/scene_2.png": encoded(annotation, "PNG")}
    write(as_zip(tmp_path, contents), tmp_path / "scenes")
    path = tmp_path / "scenes/annotations/training/scene_2.png"
    of_ade20k = {"seg_map_path": str(path), "seg_fields": [], "reduce_zero_label": True}
    assert set(np.unique(LoadAnnotations()(of_ade20k)["gt_seg_map"])) == {1, 255}


def test_a_mark_of_the_byte_order_is_no_part_of_a_name(tmp_path: Path) -> None:
    contents = files() | {"classes.txt": "tree\nsky\n".encode("utf-8-sig")}
    assert write(as_zip(tmp_path, contents), tmp_path / "scenes").names == ("tree", "sky")


def test_an_orientation_that_mmsegmentation_does_not_read_turns_nothing(tmp_path: Path) -> None:
    file = io.BytesIO()
    note = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="6"/></x:xmpmeta>'
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(file, "JPEG", xmp=note)
    assert Image.open(file).getexif()[ExifTags.Base.Orientation] == 6
    write(as_zip(tmp_path, files() | {"images/training/scene_1.jpg": file.getvalue()}), tmp_path / "scenes")


def test_classes_of_ade20k(tmp_path: Path) -> None:
    contents = files()
    del contents["classes.txt"]
    contents["objectInfo150.txt"] = (
        b"Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t.2\t9\t9\t1\twall\n2\t.1\t9\t9\t1\tbuilding, edifice\n"
    )
    assert write(as_zip(tmp_path, contents), tmp_path / "scenes").names == ("wall", "building")


def test_a_scene_that_its_camera_turned_has_its_annotation_upright(tmp_path: Path) -> None:
    """As MMSegmentation reads both."""
    note = Image.Exif()
    note[ExifTags.Base.Orientation] = 6
    file = io.BytesIO()
    Image.fromarray(np.zeros((30, 20, 3), np.uint8)).save(file, "JPEG", exif=note)
    for name, annotation in (("raw", np.zeros((30, 20), np.uint8)), ("upright", np.zeros((20, 30), np.uint8))):
        (tmp_path / name).mkdir()
        contents = files() | {"images/training/scene_1.jpg": file.getvalue()}
        source = as_zip(tmp_path / name, contents | {"annotations/training/scene_1.png": encoded(annotation, "PNG")})
        if name == "raw":
            with pytest.raises(UserError, match=r"scene_1 is \(30, 20\), its image, upright, \(20, 30\)"):
                write(source, tmp_path / name / "scenes")
        else:
            write(source, tmp_path / name / "scenes")


def test_an_archive_cannot_write_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    contents = {f"../{name}" if "scene_0" in name else name: content for name, content in files().items()}
    before = set(tmp_path.rglob("*"))
    write(as_zip(tmp_path / "inside", contents), tmp_path / "inside/scenes")
    assert {p for p in tmp_path.rglob("*") if tmp_path / "inside" not in p.parents} == before


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    bad = {
        "training scene scene_1 has no annotation": {"annotations/training/scene_1.png": None},
        "validation scene scene_0 has no image": {"images/validation/scene_0.jpg": None},
        "holds 2 training scenes; scenes.training is 3": {
            "annotations/training/scene_1.png": None, "images/training/scene_1.jpg": None,
        },
        r"classes.txt is no UTF-8 text \(.*\); save it as such": {"classes.txt": "Bäume\n".encode("latin-1")},
        "classes.txt names the class 'tree' twice": {"classes.txt": b"tree\ntree\n"},
        "names 255 classes, MMSegmentation's annotations of 8 bits have room for 254": {
            "classes.txt": "".join(f"{number}\n" for number in range(255)).encode()
        },
        "has neither classes.txt nor objectInfo150.txt": {"classes.txt": None},
        "annotation scene_2 has class 3; there are names for 2, name it too": {
            "annotations/training/scene_2.png": encoded(PICTURE[..., 0] + 3, "PNG")
        },
        "classes.txt names 1 classes; name two at least": {"classes.txt": b"tree\n"},
        "training images end in jpg and png; give all the same ending": {
            "images/training/scene_1.jpg": None, "images/training/scene_1.png": encoded(PICTURE, "PNG"),
        },
        "training has two images called scene_1; remove one": {"images/training/scene_1.png": encoded(PICTURE, "PNG")},
        "scene_1.jpg must be a PNG file, as annotations are": {
            "annotations/training/scene_1.png": None, "annotations/training/scene_1.jpg": encoded(PICTURE, "JPEG"),
        },
        r"scene_1 is \(20, 30, 3\), its image, upright, \(20, 30\); it needs one class for each pixel": {
            "annotations/training/scene_1.png": encoded(PICTURE, "PNG")
        },
        r"scene_1 is \(20, 20\), its image, upright, \(20, 30\)": {
            "annotations/training/scene_1.png": encoded(PICTURE[:, :20, 0], "PNG")
        },
        "no pixel of the validation scenes has a class; 0 and 255 are none": {
            f"annotations/validation/scene_{number}.png": encoded(np.full((20, 30), value, np.uint8), "PNG")
            for number, value in enumerate((0, 255))
        },
        "scene_0 cannot be read": {"images/training/scene_0.jpg": files()["images/training/scene_0.jpg"][:200]},
    }  # fmt: skip
    for number, (message, changes) in enumerate(bad.items()):
        contents = {name: content for name, content in (files() | changes).items() if content is not None}
        (tmp_path / str(number)).mkdir()
        with pytest.raises(UserError, match=message):
            write(as_zip(tmp_path / str(number), contents), tmp_path / str(number) / "scenes")
    with pytest.raises(UserError, match="nowhere.zip not found"):
        find_scenes(tmp_path / "nowhere.zip")
    damaged = as_zip(tmp_path, files())
    content = files()["images/training/scene_0.jpg"]
    damaged.write_bytes(damaged.read_bytes().replace(content, content[:-9] + b"x" + content[-8:], 1))
    with pytest.raises(UserError, match=r"scene_0 cannot be read \(Bad CRC-32"):
        write(damaged, tmp_path / "damaged")
    contents = files() | {"classes.txt": bytes(range(65, 91)) * 9}  # deflated, of which the stream itself breaks
    with zipfile.ZipFile(tmp_path / "deflated.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, each in contents.items():
            archive.writestr(name, each)
        start = archive.getinfo("classes.txt").header_offset + 30 + len("classes.txt")
    broken = bytearray((tmp_path / "deflated.zip").read_bytes())
    broken[start : start + 16] = b"\xff" * 16
    (tmp_path / "deflated.zip").write_bytes(broken)
    with pytest.raises(UserError, match=r"classes.txt cannot be read \(Error -3"):
        find_scenes(tmp_path / "deflated.zip")
    encrypted = as_zip(tmp_path, files())
    with zipfile.ZipFile(encrypted) as archive:
        start = archive.start_dir  # of its list of files, whose first is classes.txt
    content = bytearray(encrypted.read_bytes())
    content[start + 8] |= 1
    encrypted.write_bytes(content)
    with pytest.raises(UserError, match=r"classes.txt cannot be read \(File .* is encrypted"):
        find_scenes(encrypted)
    truncated = as_tar(tmp_path, files())
    truncated.write_bytes(truncated.read_bytes()[:3000])
    with pytest.raises(UserError, match="raw.tar is no complete zip or uncompressed tar file .*; fetch or unpack it"):
        find_scenes(truncated)


def test_colours_of_many_classes_differ() -> None:
    colours = Classes.with_colours(tuple(f"class {number}" for number in range(150))).colours
    assert len(set(colours)) == 150


def test_prepared_classes_are_read_back(tmp_path: Path) -> None:
    classes = Classes.with_colours(("a", "b"))
    (tmp_path / "classes.json").write_text(json.dumps(classes.as_dict()))
    assert Classes.read(tmp_path) == classes
    (tmp_path / "classes.json").write_text('{"names"')
    with pytest.raises(UserError, match=r"classes\.json is truncated or no JSON"):
        Classes.read(tmp_path)


@pytest.mark.skipif(not CAMVID.exists(), reason=f"{CAMVID.name} is not beside the project")
def test_camvid(tmp_path: Path) -> None:
    classes = write(CAMVID, tmp_path / "scenes", training=367, validation=101)
    assert len(classes.names) == 11 and classes.names[0] == "Sky"


@not_as_root
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    source = as_folder(tmp_path, files())
    with unreadable(source / "images/training"):
        find_scenes(source)
