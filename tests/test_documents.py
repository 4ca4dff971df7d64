"""CITATION.cff, CHANGELOG and CONTRIBUTING agree with the project that they speak of."""

import re
import tomllib

import pytest
import yaml
from conftest import ROOT

DOCUMENTS = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/at-scale.md")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    # What the format's version 1.2.0 asks for.
    assert {"cff-version", "message", "title", "authors"} <= citation.keys() and citation["cff-version"] == "1.2.0"
    assert citation["version"] == PROJECT["version"] and citation["license"] == PROJECT["license"]["text"]
    for entry in (citation, *citation["references"]):
        assert all(author["name"] for author in entry["authors"]) and entry["title"] and entry["type"]
    (paper,) = citation["references"]
    assert paper["title"] in PROJECT["description"] and paper["identifiers"][0]["value"] == "arXiv:2512.16922"


def test_the_changelog_has_this_version_and_known_headings() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[([^\]]+)\]", text, flags=re.MULTILINE)
    assert versions[0] == "Unreleased" and PROJECT["version"] in text
    assert set(re.findall(r"^### (\w+)", text, flags=re.MULTILINE)) <= {
        "Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"
    }  # fmt: skip


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_is_named_is_there(document: str) -> None:
    text = (ROOT / document).read_text()
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        assert (ROOT / link).exists(), link
    for name in re.findall(r"`((?:nepa|tests|recipes|workflow)/[\w/.]*)`", text):
        assert (ROOT / name).exists(), name
    for target in re.findall(r"`make (\w+)", text):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE), target


def test_the_commands_of_a_contributor_are_ci_s() -> None:
    """Each is a test run or a style check, of a folder and a marker that exist."""
    (block,) = re.findall(r"```sh\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.DOTALL)
    commands = [line.split("#")[0].strip() for line in block.splitlines()]
    assert commands == [
        "source .venv/bin/activate", 'pytest -m "not slow"', "pytest tests/objective", "ruff check && ruff format"
    ]  # fmt: skip
    assert (ROOT / "tests/objective").is_dir()
    markers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["markers"]
    assert any(marker.startswith("slow:") for marker in markers)
