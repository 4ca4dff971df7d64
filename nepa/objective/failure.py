"""When a pretraining counts as failed; the report asks too, so torch has no place here."""

COLLAPSED_BELOW = 0.01  # relative spread of the embeddings
IDENTITY_ABOVE = 0.99  # cosine of outputs with the embeddings at their own positions


def status_of(relative_spread: float, identity_cosine: float) -> str:
    """`collapsed`, `identity` or `ok`; a collapsed model is an identity map as well, so it is asked first."""
    if relative_spread < COLLAPSED_BELOW:
        return "collapsed"
    return "identity" if identity_cosine > IDENTITY_ABOVE else "ok"
