"""When a pretraining counts as failed; the report asks too, so torch has no place here."""

from nepa.runs.outcome import Outcome

COLLAPSED_BELOW = 0.01  # relative spread of the embeddings
IDENTITY_ABOVE = 0.99  # cosine of outputs with the embeddings at their own positions


def status_of(relative_spread: float, identity_cosine: float) -> Outcome:
    """`collapsed`, `identity` or `ok`; a collapsed model is an identity map as well, so it is asked first."""
    if not relative_spread >= COLLAPSED_BELOW:  # nor is what is no number
        return "collapsed"
    return "identity" if identity_cosine > IDENTITY_ABOVE else "ok"
