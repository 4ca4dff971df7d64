"""When a pretraining counts as failed; the report asks too, so torch has no place here."""

from nepa.runs.outcome import Outcome

COLLAPSED_ABOVE = 0.99  # mean cosine of any two embeddings
IDENTITY_ABOVE = 0.99  # cosine of outputs with the embeddings at their own positions


def status_of(mean_pairwise_cosine: float, identity_cosine: float) -> Outcome:
    """`collapsed`, `identity` or `ok`; a collapsed model is an identity map as well, so it is asked first."""
    if not mean_pairwise_cosine <= COLLAPSED_ABOVE:  # nor is what is no number
        return "collapsed"
    return "identity" if identity_cosine > IDENTITY_ABOVE else "ok"
