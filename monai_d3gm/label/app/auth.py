"""Who asks, where MONAI Label's authentication is on (``MONAI_LABEL_AUTH_ENABLE``).

MONAI Label 0.8.5 does not say by which algorithm tokens are signed, and the present PyJWT then refuses each of them.
Here tokens are checked with the issuer's public key, RS256, and their time; roles and settings are MONAI Label's own.
"""

from __future__ import annotations

from typing import Annotated, Any

import jwt
import requests
from fastapi import Depends
from monailabel.config import settings
from monailabel.endpoints.user.auth import User, get_public_key, oauth2_scheme

from monai_d3gm.label.errors import RequestError

__all__ = ["current_user"]


def current_user(token: Annotated[str, Depends(oauth2_scheme)]) -> User:
    """The user of a token.

    Raises:
        RequestError: 401, the token is not the issuer's, or no longer valid; 503, the issuer does not answer.
    """
    try:
        key = get_public_key(settings.MONAI_LABEL_AUTH_REALM_URI)
        options: Any = {"verify_aud": False, "require": ["exp"]}
        claims: Any = jwt.decode(token, key, algorithms=["RS256"], options=options)
    except jwt.InvalidTokenError as error:
        raise RequestError(401, f"the token is not accepted: {error}.") from error
    except (requests.RequestException, KeyError, ValueError) as error:
        raise RequestError(503, "the issuer of tokens does not answer.") from error
    roles = claims
    for name in settings.MONAI_LABEL_AUTH_TOKEN_ROLES.split("#"):
        roles = roles.get(name) if isinstance(roles, dict) else None
    return User(
        username=str(claims.get(settings.MONAI_LABEL_AUTH_TOKEN_USERNAME) or "unknown"),
        email=claims.get(settings.MONAI_LABEL_AUTH_TOKEN_EMAIL),
        name=claims.get(settings.MONAI_LABEL_AUTH_TOKEN_NAME),
        roles=[str(role) for role in roles] if isinstance(roles, list) else [],
    )
