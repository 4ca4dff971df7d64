"""`nepa recipe`: no stage of the graph; puts a whole set of numbers into params.yaml."""

import io
import shutil
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from nepa.errors import UserError
from nepa.files import write_atomically
from nepa.parameters import Parameters
from nepa.parameters.loading import GROUPS, parse_parameters, read_yaml

RECIPES = Path("recipes")
TARGET = Path("params.yaml")
KEPT = TARGET.with_suffix(".yaml.before")


def list_recipes() -> str:
    """Every recipe, with what its file opens with."""
    return "\n\n".join(f"{path.stem}\n{_opening(path.read_text())}" for path in sorted(RECIPES.glob("*.yaml")))


def put_in_place(name: str) -> str:
    """Write the recipe to params.yaml, once it has passed the same check; returns what changes.

    What no recipe has is kept in params.yaml.before.

    Raises:
        UserError: there is no such recipe, or it is not valid.
    """
    text = recipe_text(name)
    source = f"{RECIPES / name}.yaml"
    parse_parameters(text, source)
    try:
        before = _flat(read_yaml(TARGET.read_text(), str(TARGET)))
    except (FileNotFoundError, UnicodeDecodeError, UserError):  # what cannot be read is what someone wants to replace
        before = {}
    kept = bool(before) and not _is_a_recipe(str(before.get("recipe")), TARGET.read_text())
    if kept:
        shutil.copyfile(TARGET, KEPT)
    with write_atomically(TARGET) as beside:
        beside.write_text(text)
    after = _flat(read_yaml(text, source))
    changed = [key for key in before | after if before.get(key, "-") != after.get(key, "-")]
    lines = [f"{key}: {before.get(key, '-')} -> {after.get(key, '-')}" for key in changed]
    if kept:
        lines.append(f"What stood there is no recipe; it is kept in {KEPT}.")
    return "\n".join(lines) or f"params.yaml is {name} already"


def recipe_parameters(name: str) -> Parameters:
    """The recipe's parameters, checked as params.yaml is.

    Raises:
        UserError: there is no such recipe, or it is not valid.
    """
    return parse_parameters(recipe_text(name), f"{RECIPES / name}.yaml")


def recipe_text(name: str, asked_by: tuple[str, ...] = ()) -> str:
    """The whole recipe: what it is based on, if anything, with its own numbers in their place.

    Args:
        asked_by: the recipes that are based on it.

    Raises:
        UserError: there is no such recipe, it is no YAML, or it is based on itself.
    """
    if name in asked_by:
        raise UserError(f"{RECIPES / name}.yaml is based on itself, by way of {', '.join(asked_by)}; mend based_on")
    path = RECIPES / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
        raise UserError(f"{path} not found; there are {known or 'none here: run from the project root'}")
    yaml = YAML()
    yaml.width = 4096
    # Else what is null would look as if it had been forgotten.
    yaml.representer.add_representer(type(None), lambda to, _: to.represent_scalar("tag:yaml.org,2002:null", "null"))
    text = path.read_text()
    read_yaml(text, str(path))  # whose errors are one line
    own = yaml.load(text)
    if "based_on" not in own:
        return text
    base = yaml.load(recipe_text(own.pop("based_on"), (*asked_by, name)))
    _lay_over(base, own)
    written = io.StringIO()
    yaml.dump(base, written)
    return _opening(text) + "\n" + _without_opening(written.getvalue())


def _is_a_recipe(name: str, text: str) -> bool:
    return (RECIPES / f"{name}.yaml").exists() and recipe_text(name) == text


def _lay_over(base: CommentedMap, own: CommentedMap) -> None:
    for key, value in own.items():
        # Maps of variants are taken whole; sections are merged, so that a recipe names only what it changes.
        if isinstance(value, CommentedMap) and isinstance(base.get(key), CommentedMap) and key not in GROUPS:
            _lay_over(base[key], value)
        else:
            base[key] = value


def _opening(text: str) -> str:
    lines = text.splitlines()
    end = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "\n".join(lines[:end])


def _without_opening(text: str) -> str:
    return text[len(_opening(text)) :].lstrip("\n")


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(content, dict) or not content:
        return {prefix: content}
    return {
        key: value
        for name, inner in content.items()
        for key, value in _flat(inner, f"{prefix}.{name}" if prefix else str(name)).items()
    }
