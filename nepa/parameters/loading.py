"""Reading params.yaml: one line of error for whoever wrote it, and the variants' overrides."""

from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import ValidationError
from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.reader import ReaderError

from nepa.errors import UserError
from nepa.parameters.agreement import Parameters
from nepa.parameters.schema import ComposedScenes, Data, SceneFolder

VariantGroup = Literal["pretraining", "finetuning", "segmentation"]
GROUPS: tuple[VariantGroup, ...] = get_args(VariantGroup)
# What a variant of each group may override: a variant must not change what its shared parent was trained with.
OVERRIDABLE: dict[VariantGroup, tuple[str, ...]] = {
    "pretraining": ("model", "objective", "pretrain"),
    "finetuning": ("finetune",),
    "segmentation": ("segment",),
}
# Pydantic names the chosen alternative of a section, which is no key of the file.
ALTERNATIVES = (*get_args(Data), ComposedScenes, SceneFolder)
SOURCES = {get_args(alternative.model_fields["source"].annotation)[0] for alternative in ALTERNATIVES}


def load_parameters(path: Path = Path("params.yaml")) -> Parameters:
    """Read and check a params file, the variants included.

    Raises:
        UserError: the file is missing or no YAML, or a key is unknown, of a wrong type or impossible.
    """
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise UserError(f"{path} not found; run from the project's root, where it lies") from None
    return parse_parameters(text, str(path))


def read_text(path: Path) -> str:
    """The text of a params file, a recipe or a recipe's page.

    Raises:
        FileNotFoundError: there is none.
        UserError: it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None


def parse_parameters(text: str, source: str) -> Parameters:
    """Check the text of a params file, the variants included.

    Args:
        source: what errors call it.

    Raises:
        UserError: it is no YAML, or a key is unknown, of a wrong type or impossible.
    """
    raw = read_yaml(text, source)
    parameters = _validate(raw, source)
    for group in GROUPS:
        for name in parameters.variants(group):
            resolve_variant(parameters, group, name, source)
    return parameters


def read_yaml(text: str, source: str) -> dict[str, Any]:
    """The map of sections that a params file or a recipe holds, by the reader that DVC reads it with: others take `010`
    for 8 and `3e-4` for no number.

    Args:
        source: what errors call it.

    Raises:
        UserError: it is no YAML or no map, or has a key twice.
    """
    try:
        raw = YAML(typ="safe").load(text)
    except ReaderError as error:
        raise UserError(f"{source}, character {error.position + 1}: {error.reason}; remove it") from None
    except YAMLError as error:
        where = getattr(error, "problem_mark", None)
        last = text.rstrip().count("\n")  # libyaml's own mark of the end stands behind it
        line = f", line {min(where.line, last) + 1}" if where else ""
        # A repeated key's goes on with both of its values.
        problem = str(getattr(error, "problem", error)).partition(" with value")[0]
        raise UserError(f"{source}{line} is not YAML: {problem}; mend it there") from None
    except ValueError as error:  # of what looks like a date or a number and is none
        raise UserError(f"{source} holds a value that YAML cannot read ({error}); quote or mend it") from None
    if not isinstance(raw, dict):
        raise UserError(f"{source} holds {type(raw).__name__}, expected a map of sections; restore it with git")
    return raw


def resolve_variant(parameters: Parameters, group: VariantGroup, name: str, source: str = "params.yaml") -> Parameters:
    """The parameters of one variant: the shared ones with its overrides laid over them, checked again.

    Args:
        source: what errors call the file that it stands in.
    """
    raw = parameters.model_dump()
    for section, values in parameters.variants(group)[name].items():
        if section not in OVERRIDABLE[group]:
            allowed = " or ".join(OVERRIDABLE[group])
            raise UserError(f"{source}: {group}.{name}.{section}: a variant of {group} may only override {allowed}")
        raw[section].update(values)
    if group != "segmentation":
        raw["segmentation"] = {}  # which does not take place, so its settings need not suit this model
    return _validate(raw, f"{source}: {group}.{name}")


def _validate(raw: dict[str, Any], source: str) -> Parameters:
    try:
        return Parameters.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{source}: {_one_line(error)}") from None


def _one_line(error: ValidationError) -> str:
    # A misspelt key is also a missing one; what was written is what has to be mended.
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    first = problems[0]
    key = ".".join(str(part) for part in first["loc"] if part not in SOURCES)
    if first["type"] == "extra_forbidden":
        text = f"{key}: unknown key (value {first['input']!r}); remove it or correct its spelling"
    elif first["type"] == "missing":
        text = f"{key}: missing; every number of a run must stand in the file"
    elif first["type"] == "value_error":
        message = first["msg"].removeprefix("Value error, ")
        text = f"{key}: {message}" if key else message
    else:
        text = f"{key}: {first['input']!r} given; {first['msg'][0].lower()}{first['msg'][1:]}"
    more = len(problems) - 1
    return text + (f" (and {more} more)" if more else "")
