"""CITATION.cff, CHANGELOG, CONTRIBUTING and the pages of docs/ agree with the project that they speak of."""

import re
import runpy
import tomllib
from pathlib import Path

import networkx
import numpy as np
import pytest
import yaml
from clones import blocks
from conftest import ROOT
from PIL import Image

from nepa.report.markdown import anchor
from nepa.workflow.stages import read_stages

PAGES = ("docs/adding-a-variant.md", "docs/adding-a-dataset.md", "docs/architecture.md")
DOCUMENTS = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/at-scale.md", *PAGES)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    # What the format's version 1.2.0 asks for.
    assert {"cff-version", "message", "title", "authors"} <= citation.keys() and citation["cff-version"] == "1.2.0"
    assert citation["version"] == PROJECT["version"] and citation["license"] == PROJECT["license"]["text"]
    for entry in (citation, *citation["references"]):
        assert all(a.get("name") or a["family-names"] for a in entry["authors"]) and entry["title"] and entry["type"]
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
    for name in re.findall(r"`((?:nepa|tests|recipes|workflow)/[\w/.]*)`", text):
        assert (ROOT / name).exists() or f"cat > {name}" in text, name
    for target in re.findall(r"`make (\w+)", text):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE), target


@pytest.mark.parametrize("document", [*DOCUMENTS, "results/report.md"])
def test_every_link_leads_somewhere(document: str) -> None:
    path = ROOT / document
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", path.read_text()):
        file, _, heading = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        assert not heading or heading in map(anchor, re.findall(r"^#+ (.*)$", target.read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_only_what_there_is(page: str) -> None:
    """Keys and functions; its blocks are of the kinds that tests/end_to_end/test_pages.py does."""
    assert {language for language, _ in blocks(page)} <= {"sh", "yaml", "diff", "text"}
    files = [*(ROOT / "nepa").rglob("*.py"), ROOT / "params.yaml", ROOT / "dvc.yaml", ROOT / "nepa/report/paper.yaml"]
    sources = "\n".join(file.read_text() for file in files)
    for name in re.findall(r"`(\w+_\w+)`", (ROOT / page).read_text()):
        assert re.search(rf"\b{name}\b", sources), name


def test_the_picture_of_the_flow_is_of_these_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    flow = runpy.run_path("docs/figures/flow.py")
    stages = [stage for stage in read_stages() if not stage.further]
    names = [[address.split("@")[0] for address in (stage.address, *stage.after)] for stage in stages]
    graph = networkx.DiGraph((before, stage) for stage, *after in names for before in after)
    assert set(graph) == set(flow["STAGES"])
    assert set(networkx.transitive_reduction(graph).edges) == set(flow["BETWEEN"])
    flow["write"](tmp_path / "flow.png")
    drawn, committed = (np.asarray(Image.open(path), float) for path in (tmp_path / "flow.png", flow["TARGET"]))
    # The fonts' edges may differ between machines.
    assert drawn.shape == committed.shape and np.abs(drawn - committed).mean() < 2, "run `python docs/figures/flow.py`"


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
