"""The measures that tell a collapse, against their definitions and by hand."""

import math

import pytest
import torch
from conftest import Write

from nepa.model.backbone import build_backbone
from nepa.objective.collapse import Collapse, Evaluation, evaluate_pretraining, measure_collapse
from nepa.objective.failure import status_of
from nepa.objective.next_embedding import NextEmbeddingPrediction
from nepa.parameters import load_parameters


def test_measures_by_their_definitions() -> None:
    embeddings = torch.randn(7, 5, 4, generator=torch.Generator().manual_seed(0)) + 1
    flat = embeddings.reshape(-1, 4).double()
    measured = measure_collapse(embeddings)
    spread = sum((row - flat.mean(0)).square().sum() for row in flat) / sum(row.square().sum() for row in flat)
    cosines = [
        torch.cosine_similarity(flat[i], flat[j], dim=0) for i in range(len(flat)) for j in range(len(flat)) if i != j
    ]
    values = torch.linalg.svdvals(flat - flat.mean(0)).square()
    entropy = -sum(v * math.log(v) for v in (values / values.sum()).tolist())
    assert measured.relative_spread == pytest.approx(spread.item())
    assert measured.mean_pairwise_cosine == pytest.approx(torch.stack(cosines).mean().item())
    assert measured.effective_rank == pytest.approx(math.exp(entropy))


def test_a_point_has_no_spread_and_a_cross_has_all() -> None:
    point = measure_collapse(torch.ones(10, 3))
    assert point.relative_spread == pytest.approx(0, abs=1e-12)
    assert point.mean_pairwise_cosine == pytest.approx(1)
    cross = measure_collapse(torch.cat([torch.eye(3), -torch.eye(3)]))
    assert cross.relative_spread == pytest.approx(1)
    assert cross.effective_rank == pytest.approx(3)


@pytest.mark.parametrize(
    ("spread", "identity", "status"),
    [(0.5, 0.5, "ok"), (0.0099, 0.5, "collapsed"), (0.5, 0.991, "identity"), (0.001, 1.0, "collapsed")],
)
def test_status(spread: float, identity: float, status: str) -> None:
    assert Evaluation(-1.0, Collapse(spread, 0.0, 1.0), identity).status == status


def test_identity_is_measured_at_the_own_position(write_parameters: Write) -> None:
    torch.manual_seed(0)
    objective = NextEmbeddingPrediction(build_backbone(load_parameters(write_parameters())), shift=False)
    images = torch.randn(4, 1, 8, 8)
    # Without shift the loss is the identity's cosine, with it another position's.
    evaluation = evaluate_pretraining(objective, images)
    assert evaluation.identity_cosine == pytest.approx(-evaluation.loss, abs=1e-6)
    objective.shift = True
    assert evaluate_pretraining(objective, images).identity_cosine == pytest.approx(evaluation.identity_cosine)
    assert objective.training


def test_embeddings_of_zero_are_a_collapse() -> None:
    collapse = measure_collapse(torch.zeros(4, 9, 16))
    assert collapse.relative_spread == 0
    assert status_of(collapse.relative_spread, identity_cosine=0.0) == "collapsed"
