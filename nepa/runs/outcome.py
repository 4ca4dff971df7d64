"""How a run can end. The report asks too, so torch has no place here."""

from typing import Literal

Outcome = Literal["ok", "identity", "collapsed", "diverged"]  # all but the first are failures


def first_failure(*outcomes: Outcome) -> Outcome:
    """How a run ended whose parts ended so: as the first that failed, else `ok`."""
    return next((outcome for outcome in outcomes if outcome != "ok"), "ok")
