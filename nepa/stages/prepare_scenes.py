"""Stage `prepare scenes`. In: data/<recipe>/images. Out: data/<recipe>/scenes in ADE20K's layout, with a manifest; an
empty folder where the recipe has none."""

from pathlib import Path

from nepa.data.images import file_checksum
from nepa.data.scenes import scenes_folder
from nepa.files import remove_partial, write_atomically, write_json
from nepa.parameters import Parameters
from nepa.parameters.schema import ComposedScenes
from nepa.preparation.scene_folder import write_scene_folder
from nepa.preparation.scenes import write_scenes


def run(parameters: Parameters) -> None:
    """Compose the scenes of digits, or copy those of a folder or archive, and record every file's checksum."""
    scenes, target = parameters.scenes, scenes_folder(parameters)
    remove_partial(target)
    with write_atomically(target) as folder:
        folder.mkdir()
        if scenes is None:
            return
        if isinstance(scenes, ComposedScenes):
            classes = write_scenes(parameters, folder)
        else:
            classes = write_scene_folder(scenes, Path(parameters.sources.scenes), folder)
        write_json(folder / "classes.json", classes.as_dict())
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        checksums = {path.relative_to(folder).as_posix(): file_checksum(path) for path in files}
        counts = {split: getattr(scenes, split) for split in ("training", "validation")}
        write_json(folder / "manifest.json", {"images": counts, "sha256": checksums})
