"""The scheduler's view of dvc.yaml: order, resources, staleness; on the project's own file."""

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
import yaml
from conftest import ROOT, smallest_parameters
from dvc.exceptions import DvcException
from dvc.repo import Repo
from snakemake.cli import parse_args

from nepa.workflow.stages import Stage, mark, out_of_date, read_stages

TOY = {
    "stages": {
        "check": {"cmd": "cp a checked", "deps": ["a"], "outs": ["checked"], "meta": {"constant": True}},
        "first": {"cmd": "cp b first", "deps": ["checked", "b"], "outs": ["first"], "meta": {"cpus": 2}},
        "second": {"cmd": "cp first second", "deps": ["first"], "outs": ["second"]},
        "other": {"cmd": "cp c other", "deps": ["c"], "outs": ["other"]},
    }
}


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which four small stages have run."""
    monkeypatch.chdir(tmp_path)
    Repo.init(no_scm=True)
    Path("dvc.yaml").write_text(yaml.safe_dump(TOY))
    for name in "abc":
        Path(name).write_text(name)
    with Repo() as repo:
        repo.reproduce()
    return tmp_path


def test_order_and_resources(toy: Path) -> None:
    stages = {stage.address: stage for stage in read_stages()}
    order = list(stages)
    assert order.index("check") < order.index("first") < order.index("second")
    assert stages["second"].after == ("first",)
    assert stages["first"].meta["cpus"] == 2


def test_a_ledger_that_is_being_written_is_read_again(toy: Path) -> None:
    ledger = toy / "dvc.lock"
    whole = ledger.read_bytes()
    ledger.write_text("stages: {")
    writer = Timer(0.7, lambda: ledger.write_bytes(whole))
    writer.start()
    assert len(read_stages()) == 4
    writer.join()
    ledger.write_text("stages: {")
    with pytest.raises(DvcException):
        read_stages()


def test_resources_of_several_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """SLURM gets one task a node; the executor would make `tasks` a number for each GPU."""
    meta = {"gpus": 8, "cpus": 96, "mem_mb": 400_000, "runtime": 60}
    stage = Stage("pretrain@full-0", (), meta | {"nodes": 2})
    assert (
        stage.resources.items()
        >= {"nodes": 2, "gres": "gpu:8", "tasks": 2, "tasks_per_gpu": 0, "mpi": "torchrun"}.items()
    )
    one = Stage("pretrain@full-0", (), meta | {"nodes": 1})
    assert one.resources["gpu"] == 8
    assert not {"tasks", "mpi", "gres"} & set(one.resources)
    profile = yaml.safe_load((ROOT / "workflow/profiles/default/config.yaml").read_text())
    assert profile["resources"]["gpu_stage"] == one.resources["gpu_stage"] == 1  # one at a time
    on_a_cluster = ["--workflow-profile", "workflow/profiles/slurm", "--", "ablations"]
    monkeypatch.chdir(ROOT)
    assert not parse_args(on_a_cluster)[1].resources  # as many as it has room for


def test_nothing_is_out_of_date_after_a_run(toy: Path) -> None:
    assert out_of_date() == set()


def test_what_follows_from_a_change_is_out_of_date(toy: Path) -> None:
    Path("b").write_text("changed")
    assert out_of_date() == {"first", "second"}
    Path("first").unlink()
    Path("b").write_text("b")
    assert out_of_date() == {"first", "second"}


def test_nothing_follows_from_a_stage_whose_output_is_constant(toy: Path) -> None:
    Path("a").write_text("changed")
    assert out_of_date() == {"check"}


def test_markers_follow_dvc(toy: Path) -> None:
    stages = read_stages()
    mark(stages, out_of_date())
    Path("b").write_text("changed")
    mark(stages, out_of_date())
    assert {stage.address for stage in stages if stage.marker.exists()} == {"check", "other"}
    with Repo() as repo:
        repo.reproduce()  # the other engine runs
    mark(stages, out_of_date())
    assert all(stage.marker.exists() for stage in stages)


def addresses(folder: Path, raw: dict[str, Any]) -> set[str]:
    (folder / "params.yaml").write_text(yaml.safe_dump(raw))
    return {stage.address for stage in read_stages()}


def test_a_variant_is_one_line_of_params_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Repo.init(no_scm=True)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    raw = smallest_parameters()
    before = addresses(tmp_path, raw)
    raw["pretraining"]["masked"] = {"objective": {"input_mask_ratio": 0.4}}
    assert addresses(tmp_path, raw) - before == {
        f"{s}@masked-{seed}" for s in ("pretrain", "finetune") for seed in (0, 1)
    }
    del raw["pretraining"]["masked"]
    raw["finetuning"]["causal"] = {"finetune": {"attention": "causal"}}
    assert addresses(tmp_path, raw) - before == {f"finetune_variants@causal-{seed}" for seed in (0, 1)}
    del raw["finetuning"]["causal"]
    raw["segmentation"]["slow"] = {"segment": {"learning_rate": 1e-5}}
    assert addresses(tmp_path, raw) - before == {"segment@slow-0"}


# Of these no result depends: `check` reads the parameters, and each stage has those that concern it under `params`.
WITHOUT_EFFECT = {"__init__.py", "errors.py", "files.py", "parameters"}


def imported(module: Path) -> Iterator[Path]:
    """The project's own modules that one imports, wherever in it."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "nepa":
            for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                path = ROOT / name.replace(".", "/")
                yield from filter(Path.exists, (path.with_suffix(".py"), path / "__init__.py"))


@pytest.mark.parametrize("name", ["prepare_images", "prepare_scenes", "pretrain", "finetune", "segment", "report"])
def test_a_stage_depends_on_all_code_that_it_imports(name: str) -> None:
    found, following = set(), [ROOT / f"nepa/stages/{name}.py"]
    while following:
        module = following.pop()
        if module not in found:
            found.add(module)
            following += imported(module)
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for stage in (stages[key] for key in stages if key in {name, f"{name}_variants"}):
        known = [ROOT / path for path in stage["deps"]] + [ROOT / "nepa" / path for path in WITHOUT_EFFECT]
        assert {m for m in found if m.stat().st_size and not {m, *m.parents} & set(known)} == set()


def test_preparation_alone_depends_on_where_the_sources_lie() -> None:
    """Images that are moved are prepared again, to the same files; nothing that was trained on them is out of date."""
    depending = {
        (name, key)
        for path in ("dvc.yaml", "workflow/further_ablations/dvc.yaml")
        for name, stage in yaml.safe_load((ROOT / path).read_text())["stages"].items()
        for key in stage.get("params", [])
        if key.startswith("sources")
    }
    assert depending == {("prepare_images", "sources.images"), ("prepare_scenes", "sources.scenes")}


def test_further_ablations_are_the_main_ones_stages_in_another_place() -> None:
    """The two files declare the same work: what differs is the maps of variants and where results lie."""
    main, further = (
        yaml.safe_load((ROOT / path).read_text())["stages"]
        for path in ("dvc.yaml", "workflow/further_ablations/dvc.yaml")
    )
    for name, stage in further.items():
        assert stage.pop("wdir") == "../.."
        text = yaml.safe_dump({k: v for k, v in stage.items() if k != "desc"})
        text = text.replace("results/further_ablations/", "results/runs/").replace(
            "further_ablations.seeds", "seeds.classification"
        )
        text = text.replace("further_ablations.", "")
        expected = {key: value for key, value in main[name].items() if key not in ("desc", "metrics")}
        expected["plots"] = main[name]["metrics"] + main[name]["plots"]
        assert yaml.safe_load(text) == expected


def test_every_run_lies_below_its_recipe_and_nothing_is_trained_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Repo.init(no_scm=True)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(smallest_parameters()))
    with Repo() as repo:
        stages = list(repo.index.stages)
        outputs = [out.fs_path for stage in stages for out in stage.outs]
        commands = [stage.cmd for stage in stages]
    assert len(set(outputs)) == len(outputs) and len(set(commands)) == len(commands)
    report = {"report.md", "report.html", "table.csv", "figures"}
    assert all("smallest" in Path(path).parts for path in outputs if Path(path).name not in report)
    after = {stage.address: stage.after for stage in read_stages()}
    assert "pretrain@full-0" in after["segment@full-0"] and "pretrain@full-0" in after["finetune@full-0"]
    assert {stage for stage in after if stage.startswith(("finetune", "segment"))} <= set(after["report"])
