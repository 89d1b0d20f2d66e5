"""Who may ask what: the API key of a request, and the roles that routes ask for.

- A key comes as `Authorization: Bearer pk_...` or as `X-API-Key: pk_...`; the former counts when both are there.
- 401 has one message, whatever is wrong with the key; 403 says which role it takes and which the key has.
"""

import logging
from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import Depends, HTTPException, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from online_models.errors import StoreUnavailable
from serving_api.access import Operator, Role, admitted
from serving_api.routes.parts import parts_of
from serving_api.schemas import Problem

log: Final = logging.getLogger(__name__)

NOBODY: Final = "expected a valid API key, as `Authorization: Bearer pk_...`"
CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="penstock"'}

RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    401: {"model": Problem, "description": "No key, or one that is unknown, revoked or expired."},
    403: {"model": Problem, "description": "The key's role is too small; says which it takes."},
    404: {"model": Problem, "description": "No such model, or nothing to report of it."},
    503: {"model": Problem, "description": "PostgreSQL does not answer."},
}

_BEARER: Final = HTTPBearer(auto_error=False, description="`pk_...`, made by `python -m serving_api keys create`.")
_HEADER: Final = APIKeyHeader(name="X-API-Key", auto_error=False, description="The same, for clients without Bearer.")


def allowed(needed: Role) -> Callable[..., Operator]:
    """A dependency that lets those pass whose role includes this one."""

    def check(
        request: Request,
        bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)],
        header: Annotated[str | None, Security(_HEADER)],
    ) -> Operator:
        operator = _operator(request, bearer.credentials if bearer else header)
        if not operator.role.includes(needed):
            log.warning("role_too_small path=%s actor=%s role=%s", request.url.path, operator.actor, operator.role)
            raise HTTPException(403, f"this takes the role {needed}; this key is {operator.role}")
        return operator

    return check


Viewer = Annotated[Operator, Depends(allowed(Role.VIEWER))]
Conductor = Annotated[Operator, Depends(allowed(Role.OPERATOR))]
Approver = Annotated[Operator, Depends(allowed(Role.APPROVER))]


def _operator(request: Request, presented: str | None) -> Operator:
    parts = parts_of(request)
    try:
        operator = admitted(parts.keys, presented, parts.clock())
    except StoreUnavailable as error:
        raise HTTPException(503, f"API keys cannot be looked up now: {error}") from error
    if operator is None:
        log.info("key_refused path=%s", request.url.path)
        raise HTTPException(401, NOBODY, CHALLENGE)
    return operator
