"""Has the representation collapsed? A healthy run's loss nears -1 too, so look at how far apart the embeddings are."""

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nepa.objective.failure import status_of
from nepa.objective.next_embedding import NextEmbeddingPrediction
from nepa.runs.outcome import Outcome


@dataclass(frozen=True)
class Collapse:
    """Measures of a set of embeddings.

    Attributes:
        mean_pairwise_cosine: of all pairs; 1 when all have one direction. The objective is of directions alone: nothing
            in it draws lengths together, so that a variance may be left where all directions are one.
        effective_rank: exponential of the entropy of the centred covariance's normalised eigenvalues; 1 on a line.
    """

    mean_pairwise_cosine: float
    effective_rank: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


@torch.no_grad()
def measure_collapse(embeddings: Tensor) -> Collapse:
    """Measures of embeddings (..., D)."""
    flat = embeddings.reshape(-1, embeddings.shape[-1]).double()
    centred = flat - flat.mean(0)
    unit, count = F.normalize(flat, dim=1), len(flat)
    # A cosine is 1 less half the squared distance of the directions: 1 of any two embeddings of zero, a collapse too.
    distances = (count * unit.square().sum() - unit.sum(0).square().sum()) / (count * (count - 1))
    eigenvalues = torch.linalg.eigvalsh(centred.T @ centred).clamp_min(0)
    share = eigenvalues / eigenvalues.sum().clamp_min(torch.finfo(torch.float64).tiny)
    rank = torch.exp(-torch.xlogy(share, share).sum())
    return Collapse(1 - distances.item(), rank.item())


@dataclass(frozen=True)
class Evaluation:
    """A pretrained model on held-out images."""

    loss: float
    collapse: Collapse
    identity_cosine: float

    @property
    def status(self) -> Outcome:
        """`collapsed`, `identity` or `ok`."""
        return status_of(self.collapse.mean_pairwise_cosine, self.identity_cosine)


@torch.no_grad()
def evaluate_pretraining(model: NextEmbeddingPrediction, images: Tensor) -> Evaluation:
    """Loss, collapse and identity on images (B, C, H, W), in evaluation mode.

    `identity_cosine` is the mean cosine of the output at a patch with that patch's own input embedding: measured,
    because a model without causal mask nears a loss of -1 as well, by looking at the patch it predicts.
    """
    training = model.training
    model.eval()
    prediction = model.predict(images.to(next(model.parameters()).device))
    loss = model.loss(prediction).item()
    identity = F.cosine_similarity(prediction.own_position.float(), prediction.target.float(), dim=-1).mean().item()
    model.train(training)
    return Evaluation(loss, measure_collapse(prediction.target), identity)
