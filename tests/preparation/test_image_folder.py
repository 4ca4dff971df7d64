"""Image folders and archives become shards: every image, once, whatever its kind; damage is named."""

import hashlib
import io
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
import pytest
import simplejpeg
import torch
from conftest import ROOT, SAMPLE, not_as_root, unreadable
from PIL import EpsImagePlugin, ExifTags, Image
from scipy.io import savemat
from zc.lockfile import LockFile

from nepa.data.encoded import EncodedImages
from nepa.data.image_files import DAMAGED
from nepa.data.shards import ShardedImages
from nepa.errors import UserError
from nepa.parameters.recipes import recipe_parameters
from nepa.parameters.schema import ImageFolder
from nepa.preparation import image_folder, shards
from nepa.preparation.image_folder import RawImage, find_images
from nepa.preparation.shards import Job, _write_shard, prepare_shards, stored_bytes
from nepa.stages import prepare_images

CLASSES = ("n01", "n02", "n03")
NAMES = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz")
Source = Callable[[Path], Path]


def picture(number: int, form: str = "JPEG", mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> bytes:
    """An image of one colour that tells its number."""
    colour = (10 * number, 255 - 10 * number, 90)
    image = Image.new("RGB", size, colour).convert(mode)
    file = io.BytesIO()
    image.save(file, form, **({"quality": 95} if form == "JPEG" else {}))
    return file.getvalue()


def files() -> dict[str, bytes]:
    """12 training images, among them a grey, a CMYK and a PNG one, and 6 for validation, by path."""
    kinds = {1: ("JPEG", "L"), 2: ("JPEG", "CMYK"), 3: ("PNG", "RGBA")}
    found = {}
    for number in range(18):
        split = "train" if number < 12 else "val"
        content = picture(number, *kinds.get(number, ("JPEG", "RGB")))
        found[f"{split}/{CLASSES[number % 3]}/image_{number:02d}.JPEG"] = content
    return found


def as_folder(at: Path) -> Path:
    for name, content in files().items():
        (at / name).parent.mkdir(parents=True, exist_ok=True)
        (at / name).write_bytes(content)
    (at / "train/n01/notes.txt").write_text("no image")
    return at


def write_tar(path: Path, contents: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def as_archive(at: Path) -> Path:
    at.mkdir()
    return write_tar(at / "all.tar", {f"anything/{name}": content for name, content in files().items()})


def as_ilsvrc(at: Path) -> Path:
    """ILSVRC2012's own files: a tar of tars, a flat tar, and the development kit with the labels."""
    at.mkdir()
    inner = {}
    for label in CLASSES:
        mine = {Path(name).name: c for name, c in files().items() if name.startswith(f"train/{label}/")}
        inner[f"{label}.tar"] = write_tar(at / "inner.tar", mine).read_bytes()
    (at / "inner.tar").unlink()
    write_tar(at / "ILSVRC2012_img_train.tar", inner)
    validation = {Path(n).name: (Path(n).parent.name, c) for n, c in files().items() if n.startswith("val/")}
    write_tar(at / "ILSVRC2012_img_val.tar", {name: content for name, (_, content) in validation.items()})
    # Numbered in another order than the names of the classes.
    numbers = {"n02": 1, "n01": 2, "n03": 3}
    synsets = np.array([(number, label) for label, number in numbers.items()], [("ILSVRC2012_ID", "i4"), ("WNID", "O")])
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    truth = "".join(f"{numbers[label]}\n" for _, (label, _) in sorted(validation.items()))
    kit = {"kit/data/meta.mat": meta.getvalue(), "kit/data/ILSVRC2012_validation_ground_truth.txt": truth.encode()}
    write_tar(at / "ILSVRC2012_devkit_t12.tar.gz", kit, "w:gz")
    return at


def publish(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take these archives for those that ILSVRC2012 published."""
    sums = {name: hashlib.md5((raw / name).read_bytes()).hexdigest() for name in NAMES if (raw / name).exists()}
    monkeypatch.setattr(image_folder, "CHECKSUMS", sums)


def settings(**changes: object) -> ImageFolder:
    return ImageFolder(
        **{
            "source": "image_folder", "image_size": 28, "channels": 3, "classes": 3, "mean": 0.5,
            "std": 0.5, "split_seed": 0, "training_images": 12, "validation_images": 6, "unreadable_allowed": 0,
            "evaluate_on": "validation", "stored_size": None, "stored_quality": 95,
            "stored_chroma": 444, "images_per_shard": 5, "decode": "cpu", "crop_share": 0.875,
        } | changes
    )  # fmt: skip


def prepare(tmp_path: Path, source: Path, data: ImageFolder) -> Path:
    prepare_shards(data, source, tmp_path / "work", tmp_path / "images", processes=2)
    assert not list((tmp_path / "work").iterdir())
    return tmp_path / "images"


def colours(folder: Path, split: str) -> dict[int, int]:
    """Label of every image by its number, which its colour tells."""
    images = ShardedImages(folder, split, lambda image: image)
    found = {}
    for position in range(len(images)):
        image = images.read(position)
        assert image.shape[0] == 3 and image.dtype == torch.uint8
        found[round(image[0].float().mean().item() / 10)] = int(images.index.label[position])
    return found


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no second file system to write to")
def test_work_and_shards_may_lie_on_two_disks(tmp_path: Path) -> None:
    raw = as_folder(tmp_path / "raw")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        assert os.stat(elsewhere).st_dev != tmp_path.stat().st_dev
        prepare_shards(settings(), raw, tmp_path / "work", Path(elsewhere) / "images", processes=2)
        assert colours(Path(elsewhere) / "images", "validation") == {number: number % 3 for number in range(12, 18)}


@pytest.mark.parametrize("source", [as_folder, as_archive, as_ilsvrc])
def test_every_image_once_with_its_label(tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = source(tmp_path / "raw")
    publish(raw, monkeypatch)
    folder = prepare(tmp_path, raw, settings())
    training = colours(folder, "training")
    expected = {number: number % 3 for number in range(12)}
    grey = {training.pop(number): number for number in set(training) - set(expected)}  # grey has another red
    assert grey == {1: next(iter(grey.values()))} and training == {n: c for n, c in expected.items() if n != 1}
    assert colours(folder, "validation") == {number: number % 3 for number in range(12, 18)}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["images"] == {"training": 12, "validation": 6} and manifest["classes"] == list(CLASSES)
    shards = {p.relative_to(folder).as_posix() for p in folder.rglob("*.*") if p.name != "manifest.json"}
    assert set(manifest["sha256"]) == shards and len(shards) == 3 + 2 + 2
    with tarfile.open(folder / "training/00000.tar") as shard:
        assert len(shard.getmembers()) == 5


def test_a_source_in_another_place_or_packed_gives_the_same_files(tmp_path: Path) -> None:
    """Nothing that was trained on them is out of date then, also where some can't be read, which are named."""
    (tmp_path / "moved").mkdir()
    raw = as_folder(tmp_path / "raw")
    broken = raw / "train/n01/image_00.JPEG"
    broken.write_bytes(broken.read_bytes()[:100])
    contents = {path.relative_to(raw).as_posix(): path.read_bytes() for path in raw.rglob("*.JPEG")}
    written = []
    for place, source in (
        ("first", raw),
        ("moved", Path(shutil.copytree(raw, tmp_path / "moved/other"))),
        ("packed", write_tar(tmp_path / "all.tar", {f"anything/{name}": c for name, c in contents.items()})),
    ):
        folder = prepare(tmp_path / place, source, settings(unreadable_allowed=1))
        written.append({p.relative_to(folder): p.read_bytes() for p in folder.rglob("*.*")})
    assert b"train/n01/image_00.JPEG" in written[0][Path("manifest.json")]
    assert written[0] == written[1] == written[2]


def test_class_folders_may_be_links_and_what_is_hidden_is_left_out(tmp_path: Path) -> None:
    raw, subset = as_folder(tmp_path / "raw"), tmp_path / "subset"
    for folder in raw.glob("*/*"):
        (folder / "._image_00.JPEG").write_bytes(b"what macOS adds")
        (folder.parent / ".ipynb_checkpoints").mkdir(exist_ok=True)
        (folder.parent / ".ipynb_checkpoints/image_00-checkpoint.JPEG").write_bytes(picture(0))
        (subset / folder.parent.name).mkdir(parents=True, exist_ok=True)
        (subset / folder.parent.name / folder.name).symlink_to(folder)
    assert {split: len(images) for split, images in find_images(subset).items()} == {"training": 12, "validation": 6}
    packed = files()
    for name in files():
        packed |= dict.fromkeys((name.replace("image", "._image"), name.replace("/n0", "/.n0")), b"the same")
    assert len(find_images(write_tar(tmp_path / "all.tar", packed))["training"]) == 12


def test_a_link_in_an_archive_is_no_lost_image(tmp_path: Path) -> None:
    raw = as_folder(tmp_path / "raw")
    os.link(raw / "train/n01/image_00.JPEG", raw / "train/n01/image_99.JPEG")
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        archive.add(raw, "raw")
    with pytest.raises(UserError, match="JPEG is a link; pack the file itself"):
        find_images(tmp_path / "all.tar")


def test_a_class_that_no_checkpoint_could_name_is_refused(tmp_path: Path) -> None:
    raw = as_folder(tmp_path / "raw")
    for split in ("train", "val"):
        (raw / split / "n03").rename(raw / split / os.fsdecode(b"caf\xe9"))
    with pytest.raises(UserError, match=r"has a class 'caf\\udce9', which is no UTF-8 text; rename it"):
        prepare(tmp_path, raw, settings())
    for split in ("train", "val"):  # a space that is not the usual one is text
        (raw / split / os.fsdecode(b"caf\xe9")).rename(raw / split / "n03\u00a0b")
    manifest = json.loads((prepare(tmp_path, raw, settings()) / "manifest.json").read_text())
    assert manifest["classes"] == ["n01", "n02", "n03\u00a0b"]


@pytest.mark.slow
def test_shards_are_mixed_and_the_same_for_any_number_of_processes(tmp_path: Path) -> None:
    raw = as_folder(tmp_path / "raw")
    outcomes = []
    for processes in (1, 3):
        at = tmp_path / str(processes)
        prepare_shards(settings(), raw, at / "work", at / "images", processes)
        outcomes.append({p.name: p.read_bytes() for p in (at / "images").rglob("*.*")})
        labels = ShardedImages(at / "images", "training", lambda image: image).index.label
        assert labels.tolist() != sorted(labels.tolist())
    assert outcomes[0] == outcomes[1]


def test_as_many_processes_prepare_as_the_stage_has_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    parameters, taken = recipe_parameters("imagenet-base-paper"), []
    monkeypatch.setattr(prepare_images, "prepare_shards", lambda *arguments: taken.append(arguments[-1]))
    prepare_images.run(parameters)
    assert taken == [parameters.execution.prepare.cpus] != [1]


@pytest.mark.slow
def test_stored_size_and_untouched_originals(tmp_path: Path) -> None:
    raw = as_folder(tmp_path / "raw")
    original = (raw / "train/n01/image_00.JPEG").read_bytes()
    untouched = prepare(tmp_path / "whole", raw, settings())
    assert any(original in shard.read_bytes() for shard in (untouched / "training").glob("*.tar"))
    small = ShardedImages(prepare(tmp_path / "small", raw, settings(stored_size=15)), "training", lambda image: image)
    assert {small.read(position).shape for position in range(len(small))} == {(3, 15, 20)}


def test_an_image_that_is_to_be_turned_is_stored_upright(tmp_path: Path) -> None:
    """Decoders differ in whether they turn it; `nepa predict` does."""
    note = Image.Exif()
    note[ExifTags.Base.Orientation] = 6
    file = io.BytesIO()
    Image.new("RGB", (40, 30)).save(file, "JPEG", exif=note)
    stored = Image.open(io.BytesIO(stored_bytes(file.getvalue(), settings())))
    assert stored.size == (30, 40) and ExifTags.Base.Orientation not in stored.getexif()


def test_a_note_of_the_camera_that_is_cut_short_is_damage(tmp_path: Path) -> None:
    original, note = picture(3, "PNG"), b"eXIfMM\0*"
    chunk = struct.pack(">I", len(note) - 4) + note + struct.pack(">I", zlib.crc32(note))
    header = original.index(b"IHDR") + 4 + 13 + 4
    with pytest.raises(DAMAGED, match="unpack requires"):
        stored_bytes(original[:header] + chunk + original[header:], settings())


def test_no_other_program_is_started_for_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Pillow starts Ghostscript for PostScript, by whatever name the file goes."""
    started = []
    monkeypatch.setattr(subprocess, "check_call", lambda *arguments, **_: started.append(arguments))
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", "gs")
    drawing = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(DAMAGED, match="cannot identify"):
        stored_bytes(drawing, settings())
    assert not started


def test_more_than_8_bits_are_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(np.full((30, 40), 40_000, np.uint16)).save(file, "PNG")
    with pytest.raises(OSError, match=r"more than 8 bits per channel \(mode I;16\)"):
        stored_bytes(file.getvalue(), settings())


def test_what_the_loader_s_decoder_refuses_is_encoded_anew(tmp_path: Path) -> None:
    original = picture(3)
    at = original.index(b"JFIF") + 5
    unknown = original[:at] + b"\0\0" + original[at + 2 :]  # revision 0.00, which Pillow does not look at
    with pytest.raises(ValueError, match="unknown JFIF revision"):
        simplejpeg.decode_jpeg(unknown, "RGB", strict=False)
    data = settings()
    assert stored_bytes(original, data) == original
    assert simplejpeg.decode_jpeg(stored_bytes(unknown, data), "RGB", strict=False).shape == (30, 40, 3)


def test_noise_of_high_quality_is_stored(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)).save(file, "PNG")
    assert len(stored_bytes(file.getvalue(), settings())) > 400 * 400


def test_images_of_a_few_pixels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="smaller than 4 pixels"):
        stored_bytes(picture(3, size=(40, 3)), settings())


def test_two_folders_of_one_split_are_refused(tmp_path: Path) -> None:
    raw = as_folder(tmp_path)
    shutil.copytree(raw / "val", raw / "test")
    with pytest.raises(UserError, match="has test and val, each of validation images; leave one of them"):
        find_images(raw)


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = as_folder(tmp_path / "raw")
    for source, changes, message in (
        (raw, {"training_images": 13}, "holds 12 training images; data.training_images is 13"),
        (raw, {"classes": 4}, r"holds 3 classes \(n01, n02, n03\); data.classes is 4"),
        (tmp_path / "nowhere", {}, "nowhere not found"),
        (raw / "train", {}, "has no image below train or training"),
    ):
        with pytest.raises(UserError, match=message):
            prepare(tmp_path, source, settings(**changes))
    ilsvrc = as_ilsvrc(tmp_path / "ilsvrc")
    with pytest.raises(
        UserError, match=r"train\.tar has the MD5 \w+, ILSVRC2012's has 1d675b47d978889d74fa0da5fadfb00e"
    ):
        find_images(ilsvrc)
    publish(ilsvrc, monkeypatch)
    for name in NAMES[1:]:
        content = (ilsvrc / name).read_bytes()
        (ilsvrc / name).unlink()
        with pytest.raises(UserError, match=f"{name} not found"):
            find_images(ilsvrc)
        (ilsvrc / name).write_bytes(content[:-1])
        with pytest.raises(UserError, match=f"{name} has the MD5"):
            find_images(ilsvrc)
        (ilsvrc / name).write_bytes(content)
    assert not (tmp_path / "images").exists()


@pytest.mark.parametrize("cut", [600, 3000, 9000])
def test_a_truncated_archive_is_named(tmp_path: Path, cut: int) -> None:
    archive = as_archive(tmp_path / "raw")
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size - 10240 - cut])
    with pytest.raises(UserError, match=r"all\.tar (is truncated in|is no complete)"):
        prepare(tmp_path, archive, settings())


@pytest.mark.parametrize("mended", [False, True])
def test_bad_images_up_to_a_limit(tmp_path: Path, mended: bool) -> None:
    raw = as_folder(tmp_path / "raw")
    good = (raw / "train/n01/image_00.JPEG").read_bytes()
    (raw / "train/n01/image_00.JPEG").write_bytes(good[: len(good) // 2].ljust(len(good), b"\0"))
    (raw / "val/n01/image_12.JPEG").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"images cannot be read, data.unreadable_allowed is 1; the first is"):
        prepare(tmp_path, raw, settings(unreadable_allowed=1))
    assert not (tmp_path / "images").exists()
    if mended:  # the same size, as where a download had not ended
        (raw / "train/n01/image_00.JPEG").write_bytes(good)
        assert len(colours(prepare(tmp_path, raw, settings(unreadable_allowed=1)), "training")) == 12
        return
    folder = prepare(tmp_path, raw, settings(unreadable_allowed=2))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [name for name, _ in manifest["unreadable"]] == ["train/n01/image_00.JPEG", "val/n01/image_12.JPEG"]
    assert manifest["unreadable"][1][1] == "no image of a known format"  # without an address in memory
    assert manifest["images"] == {"training": 11, "validation": 5}


def test_a_disk_that_fails_is_no_damaged_image(tmp_path: Path) -> None:
    gone = RawImage(str(tmp_path / "gone.jpg"), 0, 1, "n01", "gone.jpg")
    with pytest.raises(FileNotFoundError):
        _write_shard(Job(tmp_path / "00000.tar", [gone], [0], settings()))
    assert not list(tmp_path.iterdir())


def test_one_process_prepares(tmp_path: Path) -> None:
    raw = as_folder(tmp_path / "raw")
    with closing(LockFile(str(tmp_path / "work.lock"))), pytest.raises(UserError, match="another process prepares"):
        prepare(tmp_path, raw, settings())
    assert len(colours(prepare(tmp_path, raw, settings()), "training")) == 12


def test_an_archive_cannot_write_outside_its_folder(tmp_path: Path) -> None:
    contents = {f"x/{name}": content for name, content in files().items()}
    contents["../../train/n01/escaped.JPEG"] = picture(3)
    contents["/train/n01/absolute.JPEG"] = picture(3)
    (tmp_path / "raw").mkdir()
    archive = write_tar(tmp_path / "raw/all.tar", contents)
    before = {p for p in tmp_path.parent.rglob("*") if tmp_path not in p.parents and p != tmp_path}
    prepare(tmp_path, archive, settings(training_images=14))
    assert {p for p in tmp_path.parent.rglob("*") if tmp_path not in p.parents and p != tmp_path} == before
    assert not list(tmp_path.rglob("escaped*")) and not Path("/train").exists()


def test_a_worker_that_is_killed_ends_it_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_end_with", os._exit)  # each dies as it begins
    with pytest.raises(UserError, match="raw was killed, as for want of memory; the same command goes on"):
        prepare(tmp_path, as_folder(tmp_path / "raw"), settings())
    monkeypatch.undo()
    assert len(colours(prepare(tmp_path, tmp_path / "raw", settings()), "validation")) == 6


@pytest.mark.slow
@pytest.mark.parametrize("with_workers", [True, False])
def test_a_killed_preparation_goes_on(tmp_path: Path, with_workers: bool) -> None:
    raw = as_folder(tmp_path / "raw")
    code = (
        "import sys, time; from pathlib import Path; from nepa.preparation import shards;"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_image_folder as t;"
        "shards.tqdm.update = lambda self, n: time.sleep(60);"
        f"shards.prepare_shards(t.settings(), Path({str(raw)!r}), Path('work'), Path('images'), 1)"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment, start_new_session=True)
    waited = time.monotonic()
    while len(list(tmp_path.glob("work/*/*/*.json"))) < 2 and time.monotonic() - waited < 60:
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) >= 2  # the server that forks, and one that it forked
    (os.killpg if with_workers else os.kill)(process.pid, 9)
    process.wait()
    assert not psutil.wait_procs(workers, timeout=20)[1]
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.glob("work/*/*/*.json")}
    assert finished and not (tmp_path / "images").exists()
    for left in (tmp_path / f".images.{process.pid}.partial", tmp_path / f".images.{os.getppid()}.partial"):
        left.mkdir()  # as of one that is killed at its end, and of one that lives
    kept = {path.with_suffix(".tar").stat().st_ino for path in finished}
    folder = prepare(tmp_path, raw, settings(image_size=14, std=0.25))  # the same is stored
    assert kept <= {path.stat().st_ino for path in folder.rglob("*.tar")}
    assert list(tmp_path.glob(".images.*.partial")) == [left]
    assert len(colours(folder, "training")) == 12


def test_shards_beyond_the_usual_limit_are_kept_open(tmp_path: Path) -> None:
    folder = prepare(tmp_path, as_folder(tmp_path / "raw"), settings())
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, before[1]), before[1]))
        ShardedImages(folder, "training", lambda image: image)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_missing_or_truncated_shard_is_named(tmp_path: Path) -> None:
    folder = prepare(tmp_path, as_folder(tmp_path / "raw"), settings())
    shard = folder / "training/00001.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[:600])
    with pytest.raises(UserError, match=r"00001\.tar is missing or truncated"):
        ShardedImages(folder, "training", lambda image: image)
    shard.write_bytes(b"\0" * len(content))
    with pytest.raises(UserError, match=r"00001\.tar: no image at byte"):
        images = ShardedImages(folder, "training", lambda image: image)
        [images.read(position) for position in range(len(images))]
    with pytest.raises(UserError, match=r"00001\.tar: no image at byte"):
        images = EncodedImages(folder, "training", None)
        images[int(np.flatnonzero(images.index.shard == 1)[0])]


@pytest.mark.skipif(not SAMPLE.exists(), reason=f"{SAMPLE.name} is not beside the project")
def test_a_sample_of_imagenet(tmp_path: Path) -> None:
    found = {split: len(images) for split, images in find_images(SAMPLE).items()}
    assert sum(found.values()) == 250
    data = settings(
        training_images=found["training"], validation_images=found["validation"], classes=250, stored_size=256,
        images_per_shard=64,
    )  # fmt: skip
    folder = prepare(tmp_path, SAMPLE, data)
    for split, count in found.items():
        images = ShardedImages(folder, split, lambda image: image)
        assert len(images) == count
        sizes = [images.read(position).shape[1:] for position in range(count)]
        assert max(min(size) for size in sizes) == 256


@not_as_root
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    source = as_folder(tmp_path)
    with unreadable(source / "train/n01"):
        find_images(source)
