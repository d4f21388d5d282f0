"""The one tree of errors that a client of Attune can meet.

    caller ──(4xx)──> edge ──(429)──> batching ──(503/504)──> state, members
      │ CallerError      │ ComeBackLater            │ DependencyError
      └ change the request  └ send it again later      └ something Attune calls did not answer

Each class names who must act, its HTTP `status` and its stable `code`. Errors are raised where the cause is known, translated once where a
foreign exception appears (redis, aiohttp, onnxruntime), and rendered once at the edge. Nothing here knows HTTP beyond the number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class FieldError:
    """One field of a request that was refused: where it is, what is wrong, and the limit where there is one."""

    field: str
    message: str


class AttuneError(Exception):
    """A failure that nobody foresaw; the log has it under the request id.

    Args:
        detail: one sentence with the numbers that matter; shown to the client, so never prompt text.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"
    fixed_headers: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls) -> None:
        # The title is the code in words, but for a class that says its own.
        if "code" in cls.__dict__ and "title" not in cls.__dict__:
            cls.title = cls.code.replace("-", " ").capitalize()

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    def extra(self) -> Mapping[str, object]:
        """Returns further members of the problem document."""
        return {}

    def headers(self) -> Mapping[str, str]:
        """Returns response headers that belong to this error."""
        return self.fixed_headers


# --- the caller changes something ---------------------------------------------------------------------------------


class CallerError(AttuneError):
    """Sending the same request again will fail again."""

    status = 400
    code = "bad-request"


class InvalidRequest(CallerError):
    """One or more fields are malformed, missing, unknown or out of their limits."""

    status = 422
    code = "invalid-request"

    def __init__(self, detail: str, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(detail)
        self.errors = tuple(errors)

    def extra(self) -> Mapping[str, object]:
        return {"errors": [{"field": error.field, "message": error.message} for error in self.errors]}


class TooLarge(CallerError):
    """A body or a text is over its limit; the detail has both numbers."""

    status = 413
    code = "too-large"


class TextTooLong(TooLarge):
    """A text is too long for what reads it: its limit of characters, or the tokens that a model has room for."""


class Unauthenticated(CallerError):
    """No API key, or one that is not known."""

    status = 401
    code = "unauthenticated"
    fixed_headers: ClassVar[Mapping[str, str]] = {"www-authenticate": "Bearer"}


class Forbidden(CallerError):
    """The key is good, and this is not allowed to it."""

    status = 403
    code = "forbidden"


class NotYourCandidate(Forbidden):
    """The candidate or decision belongs to another user of the same tenant."""

    code = "not-your-candidate"


class NotFound(CallerError):
    """No such path or resource."""

    status = 404
    code = "not-found"


class UnknownCandidate(NotFound):
    """No decision with this candidate was ever written for this tenant."""

    code = "unknown-candidate"


class UnknownDecision(NotFound):
    """No such decision for this tenant."""

    code = "unknown-decision"


class UnknownEvent(NotFound):
    """No comparison with this event id is kept for this user."""

    code = "unknown-event"


class ExpiredEvent(UnknownEvent):
    """The comparison was learned and its log entry has gone, so that it cannot be taken back any more; its id stays used."""

    status = 410
    code = "expired-event"


class UnknownMember(NotFound):
    """The portfolio has no member of this name; the detail lists those it has."""

    code = "unknown-member"


class MethodNotAllowed(CallerError):
    """The path exists, with other methods."""

    status = 405
    code = "method-not-allowed"


class HeadTooLarge(CallerError):
    """The request line and its headers, or its trailers, are over their limit in bytes; the connection is closed."""

    status = 431
    code = "head-too-large"


class HeadTooSlow(CallerError):
    """The request line and its headers did not arrive in time; the connection is closed."""

    status = 408
    code = "head-too-slow"


class BodyTooSlow(CallerError):
    """The body did not arrive in time; nothing of it was read into a request."""

    status = 408
    code = "body-too-slow"


class UnsupportedEncoding(CallerError):
    """The body is compressed, or in another charset than UTF-8."""

    status = 415
    code = "unsupported-encoding"
    fixed_headers: ClassVar[Mapping[str, str]] = {"accept-encoding": "identity"}


class UnknownHost(CallerError):
    """The request names a host that this server does not answer for; without API keys that is any but this machine's own names."""

    status = 421
    code = "unknown-host"


class EventConflict(CallerError):
    """The event id was used before with another body; nothing was applied."""

    status = 409
    code = "event-conflict"


class NoMembers(CallerError):
    """The bundle that serves has no members and the deployment no roster: it scores, and nothing can be generated or routed."""

    status = 409
    code = "no-members"


class UserDeleted(CallerError):
    """The user was deleted after this request, or the first sending of its event, began; nothing was kept."""

    status = 409
    code = "user-deleted"


class UserMerged(UserDeleted):
    """The user was merged into another one after this request began; nothing was kept. It may be sent again for the user who is left."""

    code = "user-merged"


class BundleRefused(CallerError):
    """A reload named a bundle that is damaged or does not pass its probes; the old one keeps serving."""

    status = 409
    code = "bundle-refused"


class ReloadNotNow(BundleRefused):
    """A reload could not begin: another one is under way, or what loads is being started again. Nothing is known of the bundle."""


class ExpiredCandidate(CallerError):
    """The decision was written and its record has passed its time to live."""

    status = 410
    code = "expired-candidate"


# --- the caller comes back later ----------------------------------------------------------------------------------


class ComeBackLater(AttuneError):
    """The request is good; there is no room for it now.

    Args:
        detail: what is full, with both numbers.
        retry_after_s: when to try again, in seconds; at least 1 on the wire.
    """

    status = 429
    code = "overloaded"

    def __init__(self, detail: str, retry_after_s: float = 1.0) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s

    def headers(self) -> Mapping[str, str]:
        return {"retry-after": str(max(1, round(self.retry_after_s)))}


class Overloaded(ComeBackLater):
    """A bounded queue or the permit at the edge is full."""


class RateLimited(ComeBackLater):
    """This key has used its rate."""

    code = "rate-limited"


class NotScoredYet(ComeBackLater):
    """The answers that feedback names are still to be scored, and no texts are kept to score them from."""

    code = "not-scored-yet"


# --- something that Attune calls did not answer --------------------------------------------------------------------


class DependencyError(AttuneError):
    """The request is good; a part behind the edge failed."""

    status = 503
    code = "unavailable"


class StoreUnavailable(DependencyError):
    """Redis did not answer; a write may or may not have happened, and sending it again with the same id is safe."""

    code = "store-unavailable"
    fixed_headers: ClassVar[Mapping[str, str]] = {"retry-after": "1"}


class NotReady(DependencyError):
    """The service is starting, draining, or a part that every request needs does not work; `parts` says what is known of each.

    Args:
        detail: which part, and why.
        parts: further members of the document, from `/readyz`.
    """

    code = "not-ready"
    fixed_headers: ClassVar[Mapping[str, str]] = {"retry-after": "1"}

    def __init__(self, detail: str, parts: Mapping[str, object] | None = None) -> None:
        super().__init__(detail)
        self.parts = dict(parts or {})

    def extra(self) -> Mapping[str, object]:
        return self.parts


class ScorerFailed(DependencyError):
    """The scorer raised on this input alone; other inputs of its batch were not affected."""

    status = 500
    code = "scorer-failed"


class MemberFailed(DependencyError):
    """Every member that was tried failed, or some refused the request and others failed; the detail names each with its reason."""

    status = 502
    code = "member-failed"

    def __init__(self, detail: str, attempts: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.attempts = dict(attempts or {})

    def extra(self) -> Mapping[str, object]:
        return {"attempts": self.attempts}


class DeadlineExceeded(DependencyError):
    """The request's one deadline, set at the edge, passed before the answer was there."""

    status = 504
    code = "deadline-exceeded"


# --- making them ----------------------------------------------------------------------------------------------------

FIELDS_IN_DETAIL = 5


def invalid(fields: Sequence[FieldError], more: int = 0) -> InvalidRequest:
    """Returns the error that names these fields, and counts `more` of them that are not listed."""
    detail = "; ".join(f"{field.field}: {field.message}" for field in fields[:FIELDS_IN_DETAIL])
    hidden = len(fields) - FIELDS_IN_DETAIL + more
    return InvalidRequest(f"{detail}; and {hidden} more" if hidden > 0 else detail, fields)
