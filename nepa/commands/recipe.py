"""`nepa recipe`: puts a whole set of numbers into params.yaml."""

import itertools
import json
from pathlib import Path
from typing import Any

from nepa.errors import UserError
from nepa.files import write_atomically
from nepa.parameters.loading import read_text, read_yaml
from nepa.parameters.recipes import RECIPES, opening, recipe_parameters, recipe_text

TARGET = Path("params.yaml")


def list_recipes() -> str:
    """Every recipe, with what its file opens with.

    Raises:
        UserError: there is none, or one is not UTF-8.
    """
    found = sorted(RECIPES.glob("*.yaml"))
    if not found:
        raise UserError(f"{RECIPES} holds no recipe; run from the project's root, where it lies")
    return "\n\n".join(f"{path.stem}\n{opening(read_text(path))}" for path in found)


def put_in_place(name: str) -> str:
    """Write the recipe to params.yaml, once it has passed the same check; returns what changes.

    What no recipe has is kept beside it.

    Raises:
        UserError: there is no such recipe, or it is not valid.
    """
    text = recipe_text(name)
    recipe_parameters(name)
    found = TARGET.read_bytes() if TARGET.exists() else b""
    try:
        before = _flat(read_yaml(found.decode(), str(TARGET)))
    except (UnicodeDecodeError, UserError):  # what cannot be read is what someone wants to replace
        before = {}
    kept = None if not found or found == text.encode() or _is_a_recipe(before.get("recipe"), found) else _keep(found)
    with write_atomically(TARGET) as beside:
        beside.write_text(text)
    after = _flat(read_yaml(text, f"{RECIPES / name}.yaml"))
    changed = [key for key in before | after if before.get(key, "-") != after.get(key, "-")]
    lines = [f"{key}: {_written(before.get(key, '-'))} -> {_written(after.get(key, '-'))}" for key in changed]
    if kept:
        lines.append(f"What stood there is no recipe; it is kept in {kept}.")
    return "\n".join(lines) or f"params.yaml is {name} already"


def _is_a_recipe(name: Any, content: bytes) -> bool:
    try:
        return recipe_text(str(name)).encode() == content
    except UserError:
        return False


def _keep(content: bytes) -> Path:
    """Write it to params.yaml.before, or to the first of its like that is free or holds the same."""
    for number in itertools.count(1):
        kept = TARGET.with_name(f"{TARGET.name}.before" + (f"-{number}" if number > 1 else ""))
        if not kept.exists() or kept.read_bytes() == content:
            with write_atomically(kept) as beside:
                beside.write_bytes(content)
            return kept


def _written(value: Any) -> str:
    """As YAML has it."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(content, dict) or not content:
        return {prefix: content}
    return {
        key: value
        for name, inner in content.items()
        for key, value in _flat(inner, f"{prefix}.{name}" if prefix else str(name)).items()
    }
