"""The one exception that the command line shows without a traceback."""


class UserError(Exception):
    """Something that the person at the keyboard can mend: one line that names the thing, the value and the remedy."""
