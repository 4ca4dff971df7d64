"""`nepa rehearse`: a recipe's real model through every stage, for a few steps on a few images.

What it checks is every hand-over: data, shapes, processes, checkpoints, heads, evaluation, report. Its figures mean
nothing.
"""

import gc
import logging
import math
import os
import shutil
import time
from collections.abc import Mapping, Sized
from pathlib import Path
from typing import Any

import torch
import yaml

from nepa.command_line import main
from nepa.data.scenes import SPLITS
from nepa.errors import UserError
from nepa.parameters.recipes import recipe_parameters
from nepa.parameters.schema import STAGES
from nepa.preparation.image_folder import find_images, write_sample
from nepa.preparation.scene_folder import find_scenes, write_scenes_of_split

log = logging.getLogger("nepa")

STATEMENT = (
    "A rehearsal of `{name}`: a few steps on a few images. That every stage ran is all it shows; no figure counts.\n"
)
COMMANDS = ("prepare", *STAGES, "report")


def run(name: str, images: Path, scenes: Path | None, depth: int | None) -> None:
    """Rehearse a recipe in `rehearsal/<name>`, which is made anew, on as many GPUs of this machine as it asks for.

    Args:
        images: where images lie, as `sources.images` takes it.
        scenes: where scenes lie, as `sources.scenes` takes it; None for a recipe without segmentation.
        depth: of the model, if not the recipe's own.

    Raises:
        UserError: the recipe takes no images from elsewhere, there are too few of them, or a stage failed.
    """
    recipe = recipe_parameters(name).model_dump()
    if recipe["data"]["source"] != "image_folder":
        raise UserError(f"recipe {name} has data.source {recipe['data']['source']}, no image folder; run it as it is")
    if recipe["segmentation"] and scenes is None:
        raise UserError(f"recipe {name} trains on scenes; say with --scenes where some lie")
    folder = Path("rehearsal") / name
    short = shortened(recipe, depth)
    found, counts = find_images(images), {split: short["data"][f"{split}_images"] for split in SPLITS}
    _check_enough(found, counts, "images")
    if recipe["segmentation"]:
        classes, of_scenes = find_scenes(scenes)
        _check_enough(of_scenes, {split: short["scenes"][split] for split in SPLITS}, "scenes")
    if folder.exists():  # not before all of it can be made anew
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    short["data"]["classes"] = write_sample(found, counts, folder / "images")
    if recipe["segmentation"]:
        for split, each in of_scenes.items():
            write_scenes_of_split(scenes, split, each[: short["scenes"][split]], classes, folder / "scenes")
        (folder / "scenes/classes.txt").write_text("\n".join(classes.names) + "\n")
    (folder / "recipes").mkdir()
    (folder / "recipes" / f"{name}-rehearsal.md").write_text(STATEMENT.format(name=name))
    (folder / "params.yaml").write_text(yaml.safe_dump(short, sort_keys=False))
    before = Path.cwd()
    os.chdir(folder)
    try:
        for command in COMMANDS if recipe["segmentation"] else [each for each in COMMANDS if each != "segment"]:
            started = time.monotonic()
            if main([command]) != 0:
                raise UserError(f"rehearsal of {name} failed in `nepa {command}`; its folder is {folder}")
            gc.collect()  # else what a training has left would stay on its GPU: the next command's import freezes it
            log.info(f"rehearsal of {name}: {command} in {time.monotonic() - started:.1f} s")
    finally:
        os.chdir(before)
    log.info(
        f"rehearsal of {name} went through; its report is {folder / 'results/report.md'}. "
        "For the run itself, params.yaml names where images and scenes lie, as its sources"
    )


def shortened(recipe: dict[str, Any], depth: int | None) -> dict[str, Any]:
    """The recipe with a few steps of every stage; the model is its own, but for `depth`."""
    precision = {} if torch.cuda.is_available() else {"precision": "float32"}
    gpus = {stage: min(recipe["execution"][stage]["gpus"], torch.cuda.device_count()) for stage in STAGES}
    shared = max(2, math.lcm(*(max(1, count) for count in gpus.values())))  # equally, in every stage
    images = 2 * shared  # Mixup takes pairs
    few = {"epochs": 1, "warmup_epochs": 0, "batch_size": images} | precision
    seed = recipe["seeds"]["classification"][:1]
    short = recipe | {
        "recipe": f"{recipe['recipe']}-rehearsal",
        "threads": max(1, len(os.sched_getaffinity(0)) // max(1, *gpus.values())),
        "seeds": {"classification": seed, "segmentation": seed},
        "sources": {"images": "images", "scenes": "scenes"},
        "data": recipe["data"]
        | {"training_images": 3 * images, "validation_images": 8, "images_per_shard": 5, "unreadable_allowed": 0},
        "scenes": recipe["scenes"] | {"training": 2 * shared, "validation": 1} if recipe["segmentation"] else None,
        "pretrain": recipe["pretrain"] | few | {"monitor_every": 1, "monitor_images": 4},
        "finetune": recipe["finetune"] | few | {"labels": 3 * images},
        "segment": recipe["segment"] | {"iterations": 1, "warmup_iterations": 0, "batch_size": shared} | precision,
        "pretraining": {"full": {}},
        "finetuning": {},
        "segmentation": {"full": {}} if recipe["segmentation"] else {},
        "further_ablations": {"seeds": seed, "pretraining": {}, "finetuning": {}},
    }
    carried_out = {"workers": 1, "nodes": 1, "images_per_pass": None}
    if not torch.cuda.is_available():  # compiling for a CPU takes longer than all the rest
        carried_out["compile"] = False
    execution = recipe["execution"]
    trained = {stage: execution[stage] | carried_out | {"gpus": gpus[stage]} for stage in STAGES}
    short["execution"] = execution | trained | {"prepare": execution["prepare"] | {"cpus": 1}}
    if depth is not None:
        short["model"] = recipe["model"] | {"depth": depth}
        short["segment"]["blocks"] = [min(block, depth - 1) for block in recipe["segment"]["blocks"]]
    return short


def _check_enough(found: Mapping[str, Sized], counts: dict[str, int], what: str) -> None:
    for split, count in counts.items():
        if len(found[split]) < count:
            raise UserError(f"a rehearsal needs {count} {split} {what}; there are {len(found[split])}")
