"""The size of uploads: too large ones are refused by the announced length, or as soon as more has come."""

from __future__ import annotations

from typing import Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse

__all__ = ["UploadLimit"]

_FORM = 1 << 20
"""Bytes that a form may have beside its file."""


class UploadLimit:
    """ASGI middleware that takes requests up to a size.

    Args:
        app: what answers.
        most_bytes: of a request's body.
    """

    most_bytes = 4_000_000_000

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer 413 to an upload that is too large."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        most = UploadLimit.most_bytes + _FORM
        reason = f"more was sent than {UploadLimit.most_bytes / 1e9:.3g} GB (the server's setting upload)."
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > most:
            await JSONResponse({"detail": reason}, 413)(scope, receive, send)
            return
        got = 0

        async def counted() -> Any:
            nonlocal got
            message = await receive()
            got += len(message.get("body", b""))
            if got > most:
                raise HTTPException(413, reason)
            return message

        await self.app(scope, counted, send)
