"""`nepa recipe`: puts a whole set of numbers into params.yaml."""

import shutil
from pathlib import Path
from typing import Any

from nepa.errors import UserError
from nepa.files import write_atomically
from nepa.parameters.loading import parse_parameters, read_yaml
from nepa.parameters.recipes import RECIPES, opening, recipe_text

TARGET = Path("params.yaml")
KEPT = TARGET.with_suffix(".yaml.before")


def list_recipes() -> str:
    """Every recipe, with what its file opens with."""
    return "\n\n".join(f"{path.stem}\n{opening(path.read_text())}" for path in sorted(RECIPES.glob("*.yaml")))


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


def _is_a_recipe(name: str, text: str) -> bool:
    return (RECIPES / f"{name}.yaml").exists() and recipe_text(name) == text


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(content, dict) or not content:
        return {prefix: content}
    return {
        key: value
        for name, inner in content.items()
        for key, value in _flat(inner, f"{prefix}.{name}" if prefix else str(name)).items()
    }
