"""The `nepa` command: one subcommand per stage; params.yaml is checked before anything else."""

import argparse
import errno
import gc
import importlib
import logging
import os
import sys
from pathlib import Path

from nepa.errors import UserError

STAGES = {
    "check": "check params.yaml, and do nothing else",
    "prepare": "prepare the images, or the segmentation scenes composed of them",
    "pretrain": "pretrain a backbone by next-embedding prediction",
    "finetune": "fine-tune a backbone for classification",
    "segment": "train UPerNet on a backbone",
    "report": "write results/report.md and its table from what has run",
}
REMEDIES = {
    errno.EACCES: "mend its permissions",
    errno.EPERM: "mend its permissions",
    errno.EROFS: "work in a folder that may be written to",
    errno.ENOSPC: "free some space and run the stage again",
    errno.ENOTDIR: "move away the file that stands where a folder should be",
    errno.EEXIST: "move away the file that stands where a folder should be",
    errno.EISDIR: "move away the folder that stands where a file should be",
}
FORMATS = ("reference", "pipeline", "timm", "mmsegmentation")
GROUPS = {"pretrain": ("pretraining",), "finetune": ("pretraining", "finetuning"), "segment": ("segmentation",)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nepa",
        description="Reproduction of NEPA. Every number comes from params.yaml in the current folder.",
        epilog="`dvc repro` runs all stages in order, `snakemake --cores all` as many at a time as there are cores.",
    )
    commands = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")
    for stage, text in STAGES.items():
        command = commands.add_parser(stage, help=text, description=text.capitalize() + ".")
        if stage == "prepare":
            command.add_argument("what", choices=("images", "scenes"), nargs="?", help="default: both, in order")
        if stage in GROUPS:
            command.add_argument("--variant", default="full", help="a variant of params.yaml (default: full)")
            command.add_argument("--seed", type=int, help="default: the first one of params.yaml")
    text = "say what the recipe in place will cost: steps, arithmetic, GPU-hours, memory, disk"
    command = commands.add_parser("plan", help=text, description=text.capitalize() + ".")
    command.add_argument("--gpus", type=int, default=8, help="that share each batch (default: 8)")
    command.add_argument("--tflops", type=float, help="sustained per GPU (default: what the paper's wall times mean)")
    text = "put a recipe into params.yaml, and say what changes"
    command = commands.add_parser("recipe", help=text, description=text.capitalize() + ".")
    command.add_argument("name", nargs="?", help="a file of recipes/, without its ending")
    command.add_argument("--list", action="store_true", help="list the recipes: what each reproduces, and its cost")
    text = "take a recipe's real model through every stage, for a few steps on a few images"
    command = commands.add_parser("rehearse", help=text, description=text.capitalize() + ".")
    command.add_argument("name", help="a file of recipes/, without its ending")
    command.add_argument("--images", type=Path, required=True, help="class folders, a tar file, ILSVRC2012's files")
    command.add_argument("--scenes", type=Path, required=True, help="a folder or archive in ADE20K's layout")
    command.add_argument("--depth", type=int, help="of the model; default: the recipe's own")
    text = "convert a checkpoint of the reference implementation or of the pipeline into another format"
    command = commands.add_parser("convert", help=text, description=text.capitalize() + ".")
    command.add_argument("source", type=Path, help="a safetensors file, or a folder that holds model.safetensors")
    command.add_argument("target", type=Path, help="a new folder; for `pipeline` a new file")
    command.add_argument("--to", choices=FORMATS, required=True, dest="form")
    text = "say which parameters and metrics differ, and whether beyond what the seeds alone do"
    command = commands.add_parser("compare", help=text, description=text.capitalize() + ".")
    command.add_argument(
        "first", help="a git revision, a DVC experiment or a folder of results; `.` for what lies here"
    )
    command.add_argument("second", help="likewise")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one stage; 0 when it ended well, 2 for what the user can mend, with one line on stderr."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        _run(options)
    except UserError as error:
        print(f"nepa: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in REMEDIES:
            raise
        where = error.filename or "a file"
        print(f"nepa: error: {where}: {error.strerror}; {REMEDIES[error.errno]}", file=sys.stderr)
        return 2
    return 0


def _run(options: argparse.Namespace) -> None:
    if options.stage == "convert":
        _stage("convert").run(options.source, options.target, options.form)
        return
    if options.stage == "compare":
        print(_stage("compare").describe(options.first, options.second))
        return
    if options.stage == "rehearse":
        _stage("rehearse").run(options.name, options.images, options.scenes, options.depth)
        return
    if options.stage == "recipe":
        recipe = _stage("recipe")
        if not options.list and options.name is None:
            raise UserError("recipe: name one, or give --list")
        print(recipe.list_recipes() if options.list else recipe.put_in_place(options.name))
        return
    from nepa.parameters.loading import load_parameters, resolve_variant

    parameters = load_parameters()
    # Before torch is imported: its thread pools read these once.
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(parameters.threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if options.stage == "prepare":
        for what in [options.what] if options.what else ["images", "scenes"]:
            _stage(f"prepare_{what}").run(parameters)
        return
    if options.stage == "plan":
        if options.gpus < 1 or (options.tflops is not None and options.tflops <= 0):
            raise UserError("--gpus and --tflops must be above 0")
        print(_stage("plan").describe_plan(parameters, options.gpus, options.tflops))
        return
    if options.stage not in GROUPS:
        _stage(options.stage).run(parameters)
        return
    seeds = parameters.seeds.segmentation if options.stage == "segment" else parameters.seeds.classification
    seed = seeds[0] if options.seed is None else options.seed
    if seed < 0:
        raise UserError(f"--seed {seed} must not be negative")
    groups = GROUPS[options.stage]
    group = next((group for group in groups if options.variant in parameters.variants(group)), groups[0])
    resolved = resolve_variant(parameters, group, options.variant)
    _stage(options.stage).run(resolved, options.variant, seed)


def _stage(name: str):  # noqa: ANN202 - a module
    # Importing torch makes a million objects that stay; collecting garbage meanwhile costs a fifth of the time.
    gc.disable()
    try:
        return importlib.import_module(f"nepa.stages.{name}")
    finally:
        gc.enable()


if __name__ == "__main__":
    sys.exit(main())
