"""Why a replay ends without a result."""


class ReplayFailed(Exception):
    """The suite refused what the replay needs, or did not come to rest in time; the message says which."""
