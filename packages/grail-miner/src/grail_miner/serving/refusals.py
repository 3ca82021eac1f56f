"""What a request is refused with: a status, and OpenAI's error object, which client libraries turn into their exceptions.

Whatever a client did wrong is said by name, so that it can be mended without reading this source. Nothing here is logged:
a message may repeat a piece of the request.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

_TYPES: Final = {
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
}


@dataclass(eq=False)
class RefusedRequestError(Exception):
    """A request that gets no answer. `param` names the member that is to blame, `code` is one word for programs."""

    status: int
    message: str
    code: str
    param: str | None = None
    retry_after_s: int | None = None  # whole seconds after which the same may be tried again
    headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(self.code)
        if self.retry_after_s is not None:
            self.headers = {**self.headers, "retry-after": str(self.retry_after_s)}

    @property
    def body(self) -> bytes:
        """`{"error": {"message", "type", "param", "code"}}`."""
        kind = _TYPES.get(HTTPStatus(self.status)) or ("server_error" if self.status >= 500 else "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()


def bad_request(message: str, *, param: str | None = None, code: str = "invalid_value") -> RefusedRequestError:
    """400: the request can never be answered as it is."""
    return RefusedRequestError(HTTPStatus.BAD_REQUEST, message, code, param)
