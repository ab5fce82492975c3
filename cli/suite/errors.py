"""Why a suite does not run."""


class Refused(Exception):
    """The start was refused for a reason that the user can mend; the message says which. Exit code 2."""


class StartFailed(Exception):
    """The suite did not become healthy and was stopped; the message says what held it up. Exit code 1."""
