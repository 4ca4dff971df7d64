"""What a measurement yields."""

from typing import Any

Row = dict[str, Any]


class NotMeasured(Exception):
    """A measurement that this machine or this folder does not allow; the message is the reason."""


def not_measured(reason: str | Exception, **case: Any) -> Row:
    """The row of a case that was not measured."""
    return case | {"not_measured": str(reason).partition("\n")[0]}
