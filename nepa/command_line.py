"""The `nepa` command: one subcommand per stage; params.yaml is checked before anything else."""

import argparse
import errno
import gc
import importlib
import logging
import os
import re
import shlex
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

from nepa.errors import UserError
from nepa.parameters.schema import Parameters

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
    errno.EDQUOT: "free some of your quota and run the stage again",
    errno.ENOTDIR: "move away the file that stands where a folder should be",
    errno.EEXIST: "move away the file that stands where a folder should be",
    errno.EISDIR: "move away the folder that stands where a file should be",
}
# What DVC keeps: only there does a missing file have a remedy.
KEPT = ("data/", "checkpoints/")
FORMATS = ("reference", "pipeline", "timm", "mmsegmentation", "onnx")
MEASURED = ("matrix", "step", "compiled", "loader", "fidelity", "waiting", "start", "growth")
GROUPS = {"pretrain": ("pretraining",), "finetune": ("pretraining", "finetuning"), "segment": ("segmentation",)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nepa",
        description="Reproduction of NEPA. Every number comes from params.yaml in the current folder.",
        epilog="`dvc repro` runs all stages in order, `snakemake --cores all` as many at a time as there are cores.",
    )
    commands = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")

    for stage, text in STAGES.items():
        command = add(stage, text)
        if stage == "prepare":
            command.add_argument("what", choices=("images", "scenes"), nargs="?", help="default: both, in order")
        if stage in GROUPS:
            command.add_argument("--variant", default="full", help="a variant of params.yaml (default: full)")
            command.add_argument("--seed", type=int, help="default: the first one of params.yaml")
    command = add("plan", "say what the recipe in place will cost: steps, arithmetic, GPU-hours, memory, disk")
    command.add_argument("--gpus", type=int, help="that share each batch (default: the recipe's for pretraining)")
    command.add_argument("--tflops", type=float, help="sustained per GPU (default: what the paper's wall times mean)")
    add("status", "say what runs, how far it is and when it will be done, and how long each finished stage took")
    command = add("recipe", "put a recipe into params.yaml, and say what changes")
    command.add_argument("name", nargs="?", help="a file of recipes/, without its ending")
    command.add_argument("--list", action="store_true", help="list the recipes: what each reproduces, and its cost")
    command = add("rehearse", "take a recipe's real model through every stage, for a few steps on a few images")
    command.add_argument("name", help="a file of recipes/, without its ending")
    command.add_argument("--images", type=Path, required=True, help="class folders, a tar file, ILSVRC2012's files")
    command.add_argument("--scenes", type=Path, help="a folder or archive in ADE20K's layout, if the recipe segments")
    command.add_argument("--depth", type=int, help="of the model; default: the recipe's own")
    command = add(
        "bench", "measure how fast this machine trains a recipe, against what the reference implementation does"
    )
    command.add_argument("--what", nargs="+", choices=MEASURED, default=MEASURED, help="default: all of them")
    command.add_argument("--recipe", help="a file of recipes/, without its ending (default: what is in params.yaml)")
    command.add_argument("--stages", nargs="+", choices=tuple(GROUPS), default=tuple(GROUPS), help="default: all")
    command.add_argument("--batch-size", type=int, help="default: a device's share of the recipe's, or what fits")
    command.add_argument("--seconds", type=float, default=20.0, help="that a comparison should take (default: 20)")
    command.add_argument("--images", type=Path, help="where JPEGs lie that the loaders are to read, as `data.path`")
    command.add_argument("--output", type=Path, help="folder (default: results/bench/HARDWARE/RECIPE)")
    command = add("predict", "say what a fine-tuned checkpoint sees in images: classes, or a class for every pixel")
    command.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="an image file")
    command.add_argument(
        "--checkpoint", type=Path, required=True, help="as `convert` takes it; classifier or segmentor"
    )
    command.add_argument("--top", type=int, default=5, help="classes that are named (default: 5)")
    command.add_argument(
        "--output", type=Path, default=Path("predictions"), help="folder for segmentations (default: predictions)"
    )
    command.add_argument("--json", action="store_true", help="print one JSON object a line")
    command = add(
        "convert", "convert a checkpoint of the reference implementation or of the pipeline into another format"
    )
    command.add_argument("source", type=Path, help="a safetensors file, or a folder that holds model.safetensors")
    command.add_argument("target", type=Path, help="a new folder; for `pipeline` a new file")
    command.add_argument("--to", choices=FORMATS, required=True, dest="form")
    command = add("compare", "say which parameters and metrics differ, and whether beyond what the seeds alone do")
    command.add_argument(
        "first", help="a git revision, a DVC experiment or a folder of results; `.` for what lies here"
    )
    command.add_argument("second", help="likewise")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one stage; 0 when it ended well, 2 for what the user can mend, with one line on stderr."""
    options = _parser().parse_args(arguments)
    options.command = shlex.join(["nepa", *(sys.argv[1:] if arguments is None else arguments)])
    # Of the processes of one training the first one speaks for all.
    level = logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    try:
        return _run(options)
    except BrokenPipeError:  # whoever read the output has gone; nothing more is written to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except UserError as error:
        # From a DataLoader's worker comes the whole traceback; the message is its last line.
        message = str(error).splitlines()[-1].removeprefix("nepa.errors.UserError: ")
        print(f"nepa: error: {message}", file=sys.stderr)
        return 2
    except OSError as error:
        cause = _of_worker(error)
        where, remedy = str(cause.filename or "a file"), REMEDIES.get(cause.errno)
        if cause.errno == errno.ENOENT and where.startswith(KEPT):
            remedy = "bring it back with `dvc checkout` or `dvc pull`, and run the stage again"
        if remedy is None:
            raise
        print(f"nepa: error: {where}: {cause.strerror}; {remedy}", file=sys.stderr)
        return 2


def _of_worker(error: OSError) -> OSError:
    """The error that a DataLoader's worker raised, where only its traceback came through; any other as it is."""
    found = re.search(r"\[Errno (\d+)\] (.+): '(.+)'\s*\Z", str(error))
    return error if error.errno or not found else OSError(int(found[1]), found[2], found[3])


def _run(options: argparse.Namespace) -> int:
    if options.stage == "predict":
        images, folder = options.images, options.output
        return 2 if import_stage("predict").run(images, options.checkpoint, options.top, folder, options.json) else 0
    if options.stage == "convert":
        import_stage("convert").run(options.source, options.target, options.form)
        return 0
    if options.stage == "compare":
        print(import_stage("compare").describe(options.first, options.second))
        return 0
    if options.stage == "rehearse":
        import_stage("rehearse").run(options.name, options.images, options.scenes, options.depth)
        return 0
    if options.stage == "status":
        print(import_stage("status").describe_status())
        return 0
    if options.stage == "recipe":
        recipe = import_stage("recipe")
        if not options.list and options.name is None:
            raise UserError("recipe: name one, or give --list")
        print(recipe.list_recipes() if options.list else recipe.put_in_place(options.name))
        return 0
    from nepa.parameters.loading import load_parameters, resolve_variant

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    named = options.stage == "bench" and options.recipe
    parameters = import_stage("recipe").recipe_parameters(named) if named else load_parameters()
    # Before torch is imported: its thread pools read these once.
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(parameters.threads)
    if options.stage == "prepare":
        for what in [options.what] if options.what else ["images", "scenes"]:
            import_stage(f"prepare_{what}").run(parameters)
        return 0
    if options.stage == "plan":
        if (options.gpus is not None and options.gpus < 1) or (options.tflops is not None and options.tflops <= 0):
            raise UserError("--gpus and --tflops must be above 0")
        print(import_stage("plan").describe_plan(parameters, options.gpus, options.tflops))
        return 0
    if options.stage == "bench":
        if options.seconds <= 0 or (options.batch_size or 2) % 2:
            raise UserError("--seconds must be above 0 and --batch-size even")
        import_stage("bench").run(
            parameters,
            what=options.what,
            stages=options.stages,
            batch_size=options.batch_size,
            seconds=options.seconds,
            images=options.images,
            output=options.output,
            command=options.command,
        )
        return 0
    if options.stage not in GROUPS:
        import_stage(options.stage).run(parameters)
        return 0
    seeds = parameters.seeds.segmentation if options.stage == "segment" else parameters.seeds.classification
    seed = seeds[0] if options.seed is None else options.seed
    if seed < 0:
        raise UserError(f"--seed {seed} must not be negative")
    known = {variant: group for group in GROUPS[options.stage] for variant in parameters.variants(group)}
    if options.variant not in known:
        raise UserError(f"params.yaml: {options.stage} has no variant '{options.variant}'; it has {', '.join(known)}")
    resolved = resolve_variant(parameters, known[options.variant], options.variant)
    return _train(resolved, options.stage, options.variant, seed)


def _train(parameters: Parameters, stage: str, variant: str, seed: int) -> int:
    execution = getattr(parameters.execution, stage)
    if not execution.gpus:
        # Before an import asks torch whether there are GPUs: it remembers the answer.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    module = import_stage(stage)
    from nepa.runs.paths import RunPaths
    from nepa.training.interruption import EXIT_CODE, Stopped, only_process
    from nepa.training.launch import launch
    from nepa.training.processes import first_process, leave_processes

    arguments = [stage, "--variant", variant, "--seed", str(seed)]
    scratch = RunPaths.of(parameters, stage, variant, seed).scratch
    status = launch(execution, arguments, scratch)
    if status is not None:
        return status
    code = 0
    try:
        with only_process(scratch) if first_process() else nullcontext():
            module.run(parameters, variant, seed)
    except Stopped as stopped:
        print(f"nepa: {stopped}", file=sys.stderr)
        code = EXIT_CODE
    leave_processes()
    return code


def import_stage(name: str) -> ModuleType:
    """The module of a stage or command, with all that it imports."""
    # Importing torch makes a million objects that stay: looking among them for garbage costs a fifth of the import, and
    # later a quarter of a short training's whole time.
    gc.disable()
    try:
        return importlib.import_module(f"nepa.stages.{name}")
    finally:
        gc.freeze()
        gc.enable()


if __name__ == "__main__":
    sys.exit(main())
