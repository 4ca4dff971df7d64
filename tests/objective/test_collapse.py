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
    cosines = [
        torch.cosine_similarity(flat[i], flat[j], dim=0) for i in range(len(flat)) for j in range(len(flat)) if i != j
    ]
    values = torch.linalg.svdvals(flat - flat.mean(0)).square()
    entropy = -sum(v * math.log(v) for v in (values / values.sum()).tolist())
    assert measured.mean_pairwise_cosine == pytest.approx(torch.stack(cosines).mean().item())
    assert measured.effective_rank == pytest.approx(math.exp(entropy))


@pytest.mark.parametrize("lengths", [0.0, 0.2])
def test_one_direction_is_a_collapse_whatever_the_lengths(lengths: float) -> None:
    """Of which nothing in the objective makes one."""
    along = 1 + lengths * torch.randn(10, 1, generator=torch.Generator().manual_seed(0))
    collapse = measure_collapse(along * torch.tensor([3.0, 4.0, 0.0]))
    assert collapse.mean_pairwise_cosine == pytest.approx(1)
    assert Evaluation(-1.0, collapse, identity_cosine=1.0).status == "collapsed"


def test_a_cross_has_every_direction() -> None:
    cross = measure_collapse(torch.cat([torch.eye(3), -torch.eye(3)]))
    assert cross.mean_pairwise_cosine == pytest.approx(-1 / 5)  # each with its opposite, at right angles to the others
    assert cross.effective_rank == pytest.approx(3)


def test_a_line_has_two_directions() -> None:
    line = measure_collapse(torch.tensor([[1.0, 2.0], [-1.0, -2.0], [2.0, 4.0], [-2.0, -4.0]]))
    assert line.mean_pairwise_cosine < 0 and line.effective_rank == pytest.approx(1)


@pytest.mark.parametrize(
    ("cosine", "identity", "status"),
    [
        (0.5, 0.5, "ok"),
        (0.9901, 0.5, "collapsed"),
        (0.5, 0.991, "identity"),
        (0.999, 1.0, "collapsed"),
        (math.nan, 0.5, "collapsed"),
    ],
)
def test_status(cosine: float, identity: float, status: str) -> None:
    assert Evaluation(-1.0, Collapse(cosine, 1.0), identity).status == status


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
    assert collapse.mean_pairwise_cosine == 1
    assert status_of(collapse.mean_pairwise_cosine, identity_cosine=0.0) == "collapsed"
