"""Stage `prepare scenes`. In: data/<recipe>/images. Out: data/<recipe>/scenes in ADE20K's layout, with a manifest."""

from nepa.data.images import file_checksum
from nepa.data.scenes import scenes_folder
from nepa.parameters import Parameters
from nepa.preparation.scenes import write_scenes
from nepa.training.checkpoints import write_atomically, write_json


def run(parameters: Parameters) -> None:
    """Compose the scenes and record every file's checksum."""
    with write_atomically(scenes_folder(parameters)) as folder:
        write_scenes(parameters, folder)
        checksums = {path.relative_to(folder).as_posix(): file_checksum(path) for path in sorted(folder.rglob("*.png"))}
        counts = {split: getattr(parameters.scenes, split) for split in ("training", "validation")}
        write_json(folder / "manifest.json", {"source": "digits", "images": counts, "sha256": checksums})
