"""results/report.md and report.html: made of files alone, the same twice; the summary says what the tables say."""

import base64
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT
from PIL import Image
from report_runs import write_run

from nepa.command_line import main
from nepa.report.markdown import anchor
from nepa.report.page import write_page
from nepa.report.table import COLUMNS

PICTURES = {"curves", "ablations", "triplets", "triplets_further", "seeds", "confusion", "segmentations", "cost"}


@pytest.fixture(scope="module")
def everything(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with every kind of run, of the main line and of the further ablations, and their report."""
    folder = tmp_path_factory.mktemp("report") / "project"
    shutil.copytree(prepared, folder)
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_everything()
        assert main(["report"]) == 0
        yield folder


def write_everything() -> None:
    for seed in (0, 1):
        for variant, status in (("full", "ok"), ("no_causal_mask", "ok"), ("no_shift", "identity")):
            write_run("pretrain", variant, seed, status=status)
            write_run("finetune", variant, seed, top1=80.0 + seed, status=status)
        write_run("pretrain", "no_stop_gradient", seed, status="collapsed")
        write_run("finetune", "no_stop_gradient", seed, top1=10.0, status="collapsed")
        write_run("finetune", "from_scratch", seed, initialisation="random", top1=70.0 + 1.02 * seed)
    for variant in ("full", "from_scratch"):
        write_run("segment", variant, 0)
    further = {"root": "results/further_ablations"}
    for variant in ("plain", "layer_scale"):
        write_run("pretrain", variant, 0, **further)
        write_run("finetune", variant, 0, **further)


@pytest.fixture(scope="module")
def text(everything: Path) -> str:
    return (everything / "results/report.md").read_text()


def written() -> dict[str, bytes]:
    files = [path for path in Path("results").rglob("*") if path.is_file() and "seed-" not in str(path)]
    return {str(path): path.read_bytes() for path in files}


def test_the_report_is_made_from_files_alone_and_is_the_same_twice(text: str) -> None:
    first = written()
    shutil.rmtree("data")
    assert main(["report"]) == 0
    assert written() == first
    pictures = {f"results/figures/smallest/{name}.png" for name in PICTURES}
    assert set(first) == {"results/report.md", "results/report.html", "results/table.csv"} | pictures
    assert "| 80.5 ± 0.7 (n = 2) |" in text
    assert "a processor" in text and "cccccccccccc" in text and "dddddddddddd" in text
    shown = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert {f"results/{path}" for path in shown} == pictures
    for path in shown:
        with Image.open(Path("results") / path) as picture:
            assert picture.width > 800
    assert list(pd.read_csv("results/table.csv").columns) == COLUMNS


def test_the_summary_says_what_ran_and_what_did_not(text: str) -> None:
    summary = text[text.index("## Summary") : text.index("## How rows are judged")]
    assert "**`smallest`** ([what it can show](#recipe-smallest)): 24 of 39 declared runs" in summary
    assert "have been made here: 5, of which 1 reproduced, 1 partly reproduced, 0 not reproduced, 3 not" in summary
    assert "collapsed; full − it: +70.5 [" in summary
    # That of the floor: the mask's has no width, and what fails in the paper is judged by its status.
    assert "an interval decides (one that stands twice counts once): 1; 1 of these intervals exclude 0, and" in summary
    assert "judged together, by Holm's correction: `full − from_scratch, top1`." in summary
    assert "What pretraining is worth over random weights here: `full − from_scratch`: +" in summary
    failing = "`no_shift − from_scratch`: +10.0 [+9.9, +10.1], `no_stop_gradient − from_scratch`: -60.5 ["
    assert f"The same of what fails in the paper: {failing}" in summary
    assert "No run here is on the paper's data" in text and "\n- Levels: reproduced" not in text
    assert summary.index("| **reproduced**") < summary.index("| **partly") < summary.index("| **not resolved**")
    assert "pretrain with seed 0 of `gated_mlp`, `gated_mlp_without_qk_norm`, `layer_scale_rope`" in summary
    assert "segment with" not in summary
    assert "`imagenet-base-paper`" in summary and "There is no DVC repository here" in text
    # The counts are those of the table's rows; every row's verdict is its table's.
    for count, kind in re.findall(r"(\d+) ((?:partly |not )?reproduced|not resolved)", summary):
        assert summary.count(f"| **{kind}**") == int(count)


def test_rows_of_another_machine_than_what_they_are_compared_with_are_named(everything: Path, text: str) -> None:
    assert "more differs than a setting" not in text
    told = Path("results/runs/smallest/finetune/from_scratch/seed-1/run.json")
    before = told.read_text()
    told.write_text(before.replace("a processor", "one more"))
    assert main(["report"]) == 0
    changed = Path("results/report.md").read_text()
    told.write_text(before)
    pretraining = Path("results/runs/smallest/pretrain/no_shift/seed-0/run.json")
    pretraining.write_text(pretraining.read_text().replace("a processor", "one more"))
    assert main(["report"]) == 0
    assert "setting: hardware of `no_shift`.\n" in Path("results/report.md").read_text()
    pretraining.write_text(pretraining.read_text().replace("one more", "a processor"))
    reference = Path("results/runs/smallest/segment/full")
    reference.rename("hidden")
    assert main(["report"]) == 0
    assert "more differs than a setting" not in Path("results/report.md").read_text()
    Path("hidden").rename(reference)
    assert "Compared although more differs than a setting: hardware of `from_scratch`.\n" in changed
    assert "on a processor and one more." in changed


def test_every_link_leads_to_a_heading_or_a_file(text: str) -> None:
    headings = [anchor(heading) for heading in re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)]
    assert len(set(headings)) == len(headings)
    links = set(re.findall(r"\]\(([^)]+)\)", text))
    assert len([link for link in links if link.startswith("#")]) >= 5
    for link in links:
        assert link.removeprefix("#") in headings if link.startswith("#") else (Path("results") / link).exists()


def test_a_report_that_fails_replaces_nothing(everything: Path, capsys: pytest.CaptureFixture) -> None:
    table, figure, page = (
        Path("results/table.csv"),
        next(Path("results/figures").rglob("*.png")),
        Path("recipes/smallest.md"),
    )
    written = [path.read_bytes() for path in (table, figure)]
    page.write_bytes(b"\xff")
    for path in (table, figure):
        path.write_bytes(b"of the report before")
    assert main(["report"]) == 2
    assert capsys.readouterr().err.startswith("nepa: error: recipes/smallest.md is not UTF-8")
    page.unlink()
    for path, content in zip((table, figure), written, strict=True):
        assert path.read_bytes() == b"of the report before"
        path.write_bytes(content)


def test_the_page_needs_nothing_but_itself(everything: Path) -> None:
    page = Path("results/report.html").read_text()
    assert page.count("src=") == page.count('src="data:image/png;base64,') == len(PICTURES)
    for address in re.findall(r'href="([^"]+)"', page):
        assert address.startswith(("#", "data:text/csv;base64,"))
        assert not address.startswith("#") or f'id="{address[1:]}"' in page
    assert not re.search(r"<(script|link|iframe)|@import|url\(", page)
    assert ">80.5 ± 0.7 (n = 2)</td>" in page


def test_what_others_wrote_is_no_markup(tmp_path: Path) -> None:
    page = write_page("# <b>Title\n\n| a |\n|---|\n| <script>alert(1)</script> |\n", tmp_path)
    assert "<script" not in page and "&lt;script&gt;" in page and "<title>&lt;b&gt;Title</title>" in page


def test_what_others_wrote_reads_no_file_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("a password")
    (tmp_path / "results").mkdir()
    (tmp_path / "results/table.csv").write_text("a,table")
    secret = base64.b64encode(b"a password").decode()
    for address in (tmp_path / "secret.txt", "../secret.txt"):
        page = write_page(f"# T\n\n[link]({address}) ![picture]({address})\n", tmp_path / "results")
        assert secret not in page
    assert 'src="nowhere.png"' in write_page("# T\n\n![gone](nowhere.png)\n", tmp_path / "results")
    assert "href" not in write_page("# T\n\n[recipe](../recipes/digits.yaml)\n", tmp_path / "results")
    assert 'href="https://a.b/c"' in write_page("# T\n\n[paper](https://a.b/c)\n", tmp_path / "results")
    own = write_page("# T\n\n[numbers](table.csv)\n", tmp_path / "results")
    assert base64.b64encode(b"a,table").decode() in own


def test_recipes_stand_side_by_side_and_none_looks_as_if_it_had_run(
    everything: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(everything, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    write_run("finetune", "full", 0, recipe="bigger", top1=90.0)
    write_run("finetune", "from_scratch", 0, recipe="bigger", top1=85.0, initialisation="random")
    assert main(["report"]) == 0
    text = Path("results/report.md").read_text()
    assert "**`bigger`** ([what it can show](#recipe-bigger)): 2 runs have finished" in text
    assert "#### bigger, Table 2" in text and "bigger, Fig. 7" not in text and "bigger, Table 3" not in text
    assert Path("results/figures/bigger/confusion.png").exists()
    shutil.rmtree("results/runs/smallest")
    shutil.rmtree("results/further_ablations")
    assert main(["report"]) == 0
    text = Path("results/report.md").read_text()
    assert "**`smallest`** ([what it can show](#recipe-smallest)): nothing has run." in text
    assert "Nothing of this recipe has run." in text and "#### smallest" not in text
    assert not list(Path("results/figures/smallest").iterdir())


def test_the_report_names_what_the_floors_change(text: str) -> None:
    assert re.search(r"\| `from_scratch` of finetuning +\| `finetune.initialisation` +\| random +\| pretrained", text)
    assert re.search(r"\| `from_scratch` of finetuning +\| `finetune.freeze_patch_embedding` +\| no +\| yes", text)
    assert "| `model.layer_scale` " in text  # leaves the paper's
