"""The error that refuses a request."""

from __future__ import annotations

__all__ = ["RequestError"]


class RequestError(ValueError):
    """A request is refused.

    Attributes:
        status: the HTTP status that it is answered with.
        reason: names the thing, its value and the accepted values.

    Example:
        >>> error = RequestError(404, "no image 'a'.")
        >>> error.status, str(error)
        (404, "no image 'a'.")
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
