"""Recipes: whole sets of numbers for params.yaml, each perhaps based on another."""

import io
import re
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from nepa.errors import UserError
from nepa.parameters.agreement import Parameters
from nepa.parameters.loading import GROUPS, parse_parameters, read_text, read_yaml

RECIPES = Path("recipes")
STATED = re.compile(r"# ([PC]\b|\?)")  # notes that begin with who states a number
NOTES = 33  # the column of the recipes' notes


def recipe_parameters(name: str) -> Parameters:
    """The recipe's parameters, checked as params.yaml is.

    Raises:
        UserError: there is no such recipe, it is not valid, or its results would be kept under another's name.
    """
    source = f"{RECIPES / name}.yaml"
    parameters = parse_parameters(recipe_text(name), source)
    if parameters.recipe != name:
        raise UserError(
            f"{source}: recipe is {parameters.recipe!r}, and results would be kept as its; make it {name!r}"
        )
    return parameters


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
    text = read_text(path)
    read_yaml(text, str(path))  # whose errors are one line
    own = yaml.load(text)
    if "based_on" not in own:
        return text
    base = yaml.load(recipe_text(own.pop("based_on"), (*asked_by, name)))
    _lay_over(base, own)
    written = io.StringIO()
    yaml.dump(base, written)
    return opening(text) + "\n" + _without_opening(written.getvalue())


def opening(text: str) -> str:
    """The comment with which a recipe begins: what it reproduces, shows and costs."""
    lines = text.splitlines()
    end = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "\n".join(lines[:end])


def _lay_over(base: CommentedMap, own: CommentedMap) -> None:
    for key, value in own.items():
        # Maps of variants are taken whole; sections are merged, so that a recipe names only what it changes.
        if isinstance(value, CommentedMap) and isinstance(base.get(key), CommentedMap) and key not in GROUPS:
            _lay_over(base[key], value)
            continue
        base[key] = value
        if not isinstance(value, CommentedMap):
            _lay_note_over(base, own, key)


def _lay_note_over(base: CommentedMap, own: CommentedMap, key: str) -> None:
    """A note at the end of a line belongs to its number. The recipe's own takes its place, if there is one; one that
    says who states the base's number, and nothing of others, goes with it."""
    token, theirs = base.ca.items.get(key, [None] * 3)[2], own.ca.items.get(key, [None] * 3)[2]
    note, _, rest = ("" if token is None else token.value).partition("\n")  # and the lines of comments that follow
    new = "" if theirs is None else theirs.value.partition("\n")[0]
    if not new and (";" in note or not STATED.match(note)):
        return
    if token is not None:
        token.value = f"{new}\n{rest}"
    elif new:
        base.yaml_add_eol_comment(new, key, column=NOTES)


def _without_opening(text: str) -> str:
    return text[len(opening(text)) :].lstrip("\n")
