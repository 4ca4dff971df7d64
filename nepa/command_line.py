"""The `nepa` command: one function for each of its commands; what reads params.yaml checks it before anything else."""

import argparse
import errno
import gc
import importlib
import logging
import math
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

from nepa.errors import UserError
from nepa.parameters import Parameters, load_parameters
from nepa.parameters.declared import variants_of
from nepa.parameters.loading import resolve_variant
from nepa.parameters.schema import SEEDS

REMEDIES = {
    errno.EACCES: "mend its permissions",
    errno.EPERM: "mend its permissions",
    errno.EROFS: "work in a folder that may be written to",
    errno.ENOSPC: "free some space and run the stage again",
    errno.EDQUOT: "free some of your quota and run the stage again",
    errno.ENAMETOOLONG: "shorten its name",
    errno.ELOOP: "mend the symbolic link",
    errno.ENOTDIR: "move away the file that stands where a folder should be",
    errno.EEXIST: "move away the file that stands where a folder should be",
    errno.EISDIR: "move away the folder that stands where a file should be",
    errno.ENOLCK: "work on a disk that is mounted with file locks",
    errno.EOPNOTSUPP: "work on a disk that is mounted with file locks",
}
Command = Callable[[argparse.Namespace], int | None]  # its exit status; None where that is 0
# What DVC keeps: only there does a missing file have a remedy.
KEPT = ("data/", "checkpoints/")
FORMATS = ("reference", "pipeline", "timm", "mmsegmentation", "onnx")
MEASURED = ("matrix", "step", "compiled", "loader", "fidelity", "waiting", "start", "growth")
TRAINING = {
    "pretrain": "pretrain a backbone by next-embedding prediction",
    "finetune": "fine-tune a backbone for classification",
    "segment": "train UPerNet on a backbone",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nepa",
        description="Reproduction of NEPA. Every number comes from params.yaml in the current folder.",
        epilog="`dvc repro` runs all stages in order, `snakemake --cores all` as many at a time as there are cores.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, text: str, run: Command) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.set_defaults(stage=name, run=run)
        return command

    add("check", "check params.yaml, and mark it as valid for the other stages", _check)
    command = add("prepare", "prepare the images, or the segmentation scenes composed of them", _prepare)
    command.add_argument("what", choices=("images", "scenes"), nargs="?", help="default: both, in order")
    for stage, text in TRAINING.items():
        command = add(stage, text, _train)
        command.add_argument("--variant", default="full", help="a variant of params.yaml (default: full)")
        command.add_argument("--seed", type=int, help="default: the variant's first one in params.yaml")
    add("report", "write results/report.md and its table from what has run", _report)
    command = add("plan", "say what the recipe in place will cost: steps, arithmetic, GPU-hours, memory, disk", _plan)
    command.add_argument("--gpus", type=int, help="that share each batch (default: the recipe's for pretraining)")
    command.add_argument("--tflops", type=float, help="sustained per GPU (default: what the paper's wall times mean)")
    add(
        "status",
        "say what runs, how far it is and when it will be done, and how long each finished stage took",
        _status,
    )
    command = add("recipe", "put a recipe into params.yaml, and say what changes", _recipe)
    command.add_argument("name", nargs="?", help="a file of recipes/, without its ending")
    command.add_argument("--list", action="store_true", help="list the recipes: what each reproduces, and its cost")
    command = add(
        "rehearse", "take a recipe's real model through every stage, for a few steps on a few images", _rehearse
    )
    command.add_argument("name", help="a file of recipes/, without its ending")
    command.add_argument("--images", type=Path, required=True, help="class folders, a tar file, ILSVRC2012's files")
    command.add_argument("--scenes", type=Path, help="a folder or archive in ADE20K's layout, if the recipe segments")
    command.add_argument("--depth", type=int, help="of the model; default: the recipe's own")
    command = add(
        "bench",
        "measure how fast this machine trains a recipe, against what the reference implementation does",
        _bench,
    )
    command.add_argument("--what", nargs="+", choices=MEASURED, default=MEASURED, help="default: all of them")
    command.add_argument("--recipe", help="a file of recipes/, without its ending (default: what is in params.yaml)")
    command.add_argument("--stages", nargs="+", choices=tuple(TRAINING), default=tuple(TRAINING), help="default: all")
    command.add_argument("--batch-size", type=int, help="default: a device's share of the recipe's, or what fits")
    command.add_argument("--seconds", type=float, default=20.0, help="that a comparison should take (default: 20)")
    command.add_argument("--images", type=Path, help="where the loaders' JPEGs lie, as `sources.images`")
    command.add_argument("--output", type=Path, help="folder (default: results/bench/HARDWARE/RECIPE)")
    command = add(
        "predict", "say what a fine-tuned checkpoint sees in images: classes, or a class for every pixel", _predict
    )
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
        "convert",
        "convert a checkpoint of the reference implementation or of the pipeline into another format",
        _convert,
    )
    command.add_argument("source", type=Path, help="a safetensors file, or the folder of a single one")
    command.add_argument("target", type=Path, help="a new folder; for `pipeline` a new file")
    command.add_argument("--to", choices=FORMATS, required=True, dest="form")
    command = add(
        "compare", "say which parameters and metrics differ, and whether beyond what the seeds alone do", _compare
    )
    command.add_argument(
        "first", help="a git revision, a DVC experiment or a folder of results; `.` for what lies here"
    )
    command.add_argument("second", help="likewise")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when it ended well, 2 for what the user can mend, with one line on stderr; 130 on Ctrl-C."""
    options = _parser().parse_args(arguments)
    options.command = shlex.join(["nepa", *(sys.argv[1:] if arguments is None else arguments)])
    # Of the processes of one training the first one speaks for all.
    level = logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    try:
        status = options.run(options) or 0
        sys.stdout.flush()  # here, where it is still told if nothing more can be written
        return status
    except KeyboardInterrupt:
        print("nepa: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # whoever read the output has gone; nothing more is written to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except UserError as error:
        # From a DataLoader's worker comes the whole traceback; the message stands at its end.
        message = str(error).rpartition("nepa.errors.UserError: ")[2]
        print("nepa: error:", *message.splitlines(), file=sys.stderr)
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


def _load_parameters(recipe: str | None = None) -> Parameters:
    """The checked params.yaml, or a recipe's; torch, which is imported after it, will take no more threads."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if recipe is None:
        parameters = load_parameters()
    else:
        # Here, or else it would count as code of every run, which reads no recipe.
        from nepa.parameters.recipes import recipe_parameters

        parameters = recipe_parameters(recipe)
    # Its thread pools read these once.
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(parameters.threads)
    return parameters


def _check_above_0(options: argparse.Namespace, *names: str) -> None:
    for name in names:
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"--{name.replace('_', '-')} {value} must be a number above 0")


def _check(_: argparse.Namespace) -> None:
    import_command("stages.check").run(_load_parameters())


def _prepare(options: argparse.Namespace) -> None:
    parameters = _load_parameters()
    for what in [options.what] if options.what else ["images", "scenes"]:
        import_command(f"stages.prepare_{what}").run(parameters)


def _report(_: argparse.Namespace) -> None:
    import_command("stages.report").run(_load_parameters())


def _plan(options: argparse.Namespace) -> None:
    _check_above_0(options, "gpus", "tflops")
    parameters = _load_parameters()
    print(import_command("commands.plan").describe_plan(parameters, options.gpus, options.tflops))


def _status(_: argparse.Namespace) -> None:
    print(import_command("commands.status").describe_status())


def _recipe(options: argparse.Namespace) -> None:
    if not options.list and options.name is None:
        raise UserError("recipe: name one, or give --list")
    recipe = import_command("commands.recipe")
    print(recipe.list_recipes() if options.list else recipe.put_in_place(options.name))


def _rehearse(options: argparse.Namespace) -> None:
    _check_above_0(options, "depth")
    import_command("commands.rehearse").run(options.name, options.images, options.scenes, options.depth)


def _bench(options: argparse.Namespace) -> None:
    _check_above_0(options, "seconds", "batch_size")
    if options.batch_size is not None and options.batch_size % 2:
        raise UserError(f"--batch-size {options.batch_size} must be even")
    parameters = _load_parameters(options.recipe)
    if not any(getattr(parameters.execution, stage).gpus for stage in options.stages):
        _hide_gpus()
    import_command("commands.bench").run(
        parameters,
        what=options.what,
        stages=options.stages,
        batch_size=options.batch_size,
        seconds=options.seconds,
        images=options.images,
        output=options.output,
        command=options.command,
    )


def _predict(options: argparse.Namespace) -> int:
    _check_above_0(options, "top")
    unreadable = import_command("commands.predict").run(
        options.images, options.checkpoint, options.top, options.output, options.json
    )
    return 2 if unreadable else 0


def _convert(options: argparse.Namespace) -> None:
    import_command("commands.convert").run(options.source, options.target, options.form)


def _compare(options: argparse.Namespace) -> None:
    print(import_command("commands.compare").describe(options.first, options.second))


def _train(options: argparse.Namespace) -> int:
    parameters = _load_parameters()
    stage, variant = options.stage, options.variant
    known = variants_of(parameters, stage)
    if not known:
        raise UserError(f"params.yaml: no variant has a {stage} stage; add one, as docs/adding-a-variant.md says")
    if variant not in known:
        raise UserError(f"params.yaml: {stage} has no variant '{variant}'; it has {', '.join(known)}")
    seed = known[variant].seeds[0] if options.seed is None else options.seed
    if seed not in SEEDS:
        raise UserError(f"--seed {seed} must be from {SEEDS.start} to {SEEDS.stop - 1}")
    parameters = resolve_variant(parameters, known[variant].group, variant)
    execution = getattr(parameters.execution, stage)
    if not execution.gpus:
        _hide_gpus()
    module = import_command(f"stages.{stage}")
    from torch import OutOfMemoryError

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
        if first_process():
            print(f"nepa: {stopped}", file=sys.stderr)
        code = EXIT_CODE
    except OutOfMemoryError as error:
        passes = "" if stage == "segment" else "fewer images_per_pass, "  # batch norm sees a whole batch
        raise UserError(
            f"{stage}: {str(error).split('. ')[0]}; give execution's {stage} {passes}recompute_activations, shard, or "
            "more GPUs"
        ) from None
    leave_processes()
    return code


def _hide_gpus() -> None:
    """From a recipe that asks for none; before an import asks torch whether there are GPUs: it remembers the answer."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


def import_command(module: str) -> ModuleType:
    """A module of `stages` or `commands`, with all that it imports."""
    # Importing torch makes a million objects that stay: looking among them for garbage costs a fifth of the import, and
    # later a quarter of a short training's whole time.
    gc.disable()
    try:
        return importlib.import_module(f"nepa.{module}")
    finally:
        gc.freeze()
        gc.enable()


if __name__ == "__main__":
    sys.exit(main())
