"""`/users`: who is kept; `/users/{user}`: what is known of a user, deletion with a receipt, merging, and taking one comparison back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from attune.service.api.answer_json import UserSeen, json_response, problems, rfc3339
from attune.service.api.prompted import MAX_USER_CHARS, Id, NativeRequest, User, sound_unicode
from attune.service.api.route import CertificateAnswer, Expected, certificate_answer, expected_answer
from attune.service.auth import require_admin
from attune.service.errors import FieldError, UnknownEvent, invalid
from attune.service.http.documentation import operation_name
from attune.service.http.segments import Segment
from attune.service.live.runtime import Call
from attune.service.state.records import checked_event_id
from attune.service.usecases import learning
from attune.service.usecases.authors import read_standing
from attune.service.usecases.member_choice import UsualRouting, usual_routing
from attune.service.usecases.people import delete_person, look_up, merge_people, under_families, weights_under

router = APIRouter(tags=["users"], generate_unique_id_function=operation_name)


@dataclass(frozen=True, slots=True)
class UserState:
    """Times are RFC 3339, null for a user who was never seen.

    Attributes:
        id: as asked for
        comparisons: learned and not taken back
        first_seen: of the first comparison
        last_seen: of the latest comparison
    """

    id: str
    comparisons: int
    first_seen: str | None
    last_seen: str | None


@dataclass(frozen=True, slots=True)
class FamilyState:
    """A user under one family; `mean` and `std` of the Gaussian where the family has one, and `weights_std`, the spread of each weight.

    Attributes:
        weights: the weight of each of the family's heads; shares that sum to 1, or any numbers (kind `attributes`)
        mean: of the user's vector, in the family's own coordinates
        std: of each coordinate
        weights_std: standard deviation of each weight over 256 draws with a fixed seed
    """

    weights: dict[str, float]
    mean: list[float] | None = None
    std: list[float] | None = None
    weights_std: dict[str, float] | None = None


@dataclass(frozen=True, slots=True)
class UserPortfolio:
    """The member that is best for this user on an average prompt, each member's expected value, and what is proved for this user.

    Attributes:
        member: the name of that member
        expected: each member's value, in logits of the serving family
        certificate: null where the bundle has none for the family
        effects: the part of each value that is the member's own, beyond what its texts are worth; missing where the bundle learns none
    """

    member: str
    expected: dict[str, Expected]
    certificate: CertificateAnswer | None
    effects: dict[str, Expected] | None = None


@dataclass(frozen=True, slots=True)
class UserAnswer:
    """Answer of `GET /users/{user}`; `family` is the one that serves, and `portfolio` null where there are no members.

    Attributes:
        user: who it is, and from how many comparisons they are known
        bundle: the bundle that serves
        basis: the basis under which sums are kept; bundles of one basis share users
        family: the reward family that serves
        families: the user under each family of the bundle
        portfolio: who would serve this user
    """

    user: UserState
    bundle: str
    basis: str
    family: str
    families: dict[str, FamilyState]
    portfolio: UserPortfolio | None


@dataclass(frozen=True, slots=True)
class DeletedCounts:
    """What a deletion removed.

    Attributes:
        keys: of Redis that held something of the user
        comparisons: in the log; those that had left it are in no sum any more either
        decisions: that were kept
    """

    keys: int
    comparisons: int
    decisions: int


@dataclass(frozen=True, slots=True)
class DeletedAnswer:
    """Receipt of `DELETE /users/{user}`.

    Attributes:
        deleted: what there was; all zeros for a user who was never seen
        deleted_before: the user was deleted within the last day already, as by this request where its answer was
            lost; `deleted` counts what came since
    """

    deleted: DeletedCounts
    deleted_before: bool


@dataclass(frozen=True, slots=True)
class TakenBackAnswer:
    """Answer of `DELETE /users/{user}/comparisons/{event_id}`.

    Attributes:
        event_id: of the comparison; it stays used
        result: always `taken-back`; a comparison that is unknown is a 404
        user: with the new number of comparisons
        weights: the user's mixture over the serving family's heads now
    """

    event_id: str
    result: Literal["taken-back"]
    user: UserSeen
    weights: dict[str, float]


class MergeRequest(NativeRequest):
    """Body of `POST /users/{user}/merge`; without an event id, one user is merged into another once.

    Attributes:
        into: the user who is left; must differ from the one in the path
        event_id: makes a repeat harmless; name a new one to merge what the same source learned later
    """

    into: User
    event_id: Id | None = None


@dataclass(frozen=True, slots=True)
class MergedAnswer:
    """Answer of `POST /users/{user}/merge`: how many comparisons and decisions this call moved, and who they belong to now.

    Attributes:
        result: `applied`, or `duplicate` where the same merge was done before
        comparisons: moved by this call; 0 for a repeat
        decisions: moved by this call
        user: into whom, with the new number of comparisons
    """

    result: Literal["applied", "duplicate"]
    comparisons: int
    decisions: int
    user: UserSeen


@dataclass(frozen=True, slots=True)
class ListedUserAnswer:
    """A user by the tag that stands in the place of the id, which is not kept; times are RFC 3339.

    Attributes:
        tag: a keyed hash of tenant and id
        comparisons: learned and not taken back
        first_seen: of the first comparison; null if it is not known
        last_seen: of the latest comparison; null if it is not known
    """

    tag: str
    comparisons: int
    first_seen: str | None
    last_seen: str | None


@dataclass(frozen=True, slots=True)
class UsersAnswer:
    """Answer of `GET /users`; `after` asks for the next page, and is null on the last.

    Attributes:
        basis: the basis whose users are listed
        users: in no order
        after: to be sent as `after` for the next page
    """

    basis: str
    users: list[ListedUserAnswer]
    after: str | None


@router.get("/users", response_model=UsersAnswer, responses=problems(403), summary="Who is kept")
async def list_users(
    request: Request,
    after: Annotated[str, Query(max_length=64, description="`after` of the page before")] = "",
    limit: Annotated[int, Query(ge=1, le=1000, description="about how many; a page may be shorter though others follow")] = 100,
) -> Response:
    """The users of the caller's tenant by their tags, in pages and no order; for keys with the admin right."""
    call: Call = request.state.call
    require_admin(call.caller)
    try:
        page = await call.runtime.store.list_users(call.caller.tenant, call.kept_under, after, limit)
    except ValueError as error:
        raise invalid([FieldError("after", str(error))]) from None
    users = [ListedUserAnswer(one.tag, one.comparisons, rfc3339(one.first_seen_s), rfc3339(one.last_seen_s)) for one in page.users]
    return json_response(UsersAnswer(call.serving.bundle.basis, users, page.cursor))


@router.post(
    "/users/{user:segment}/merge",
    response_model=MergedAnswer,
    responses=problems(409),
    summary="Add an anonymous user to a known one, once",
)
async def merge_user(user: Segment, body: MergeRequest, request: Request) -> Response:
    """Moves what was learned of `user` to `into`, whose sums are added up; `user` is at the prior afterwards. Repeating it is safe.

    What is learned of `user` later is moved by another merge, with an event id of its own.
    """
    call: Call = request.state.call
    if body.event_id is not None:
        try:
            checked_event_id(body.event_id)
        except ValueError as error:
            raise invalid([FieldError("event_id", str(error).removeprefix("event id "))]) from None
    merged, after = await merge_people(call, checked_user(user), body.into, body.event_id)
    return json_response(MergedAnswer(merged.result, merged.comparisons, merged.decisions, UserSeen(after.id, after.comparisons)))


@router.get("/users/{user:segment}", response_model=UserAnswer, responses=problems(), summary="What is known of a user")
async def get_user(user: Segment, request: Request) -> Response:
    """The user under every family; somebody who was never seen is at the prior."""
    call: Call = request.state.call
    found = await look_up(call, checked_user(user))
    bundle, usual = call.serving.bundle, usual_routing(call, found, await read_standing(call))
    return json_response(
        UserAnswer(
            user=UserState(user, found.comparisons, rfc3339(found.first_seen_s), rfc3339(found.last_seen_s)),
            bundle=bundle.id,
            basis=bundle.basis,
            family=call.serving.family,
            families={
                name: FamilyState(under.weights, under.mean, under.std, under.weights_std)
                for name, under in under_families(call, found).items()
            },
            portfolio=None if usual is None else _user_portfolio(usual),
        )
    )


def _user_portfolio(usual: UsualRouting) -> UserPortfolio:
    return UserPortfolio(
        usual.member, expected_answer(usual.expected), certificate_answer(usual.certificate), expected_answer(usual.effects) or None
    )


@router.delete("/users/{user:segment}", response_model=DeletedAnswer, responses=problems(), summary="Delete a user completely")
async def delete_user(user: Segment, request: Request) -> Response:
    """Removes sums, comparisons, decisions and events; the receipt counts them. A repeat removes what came since, and says so."""
    call: Call = request.state.call
    deleted = await delete_person(call, checked_user(user))
    counts = DeletedCounts(deleted.keys, deleted.comparisons, deleted.decisions)
    return json_response(DeletedAnswer(counts, deleted.deleted_before))


@router.delete(
    "/users/{user:segment}/comparisons/{event_id:segment}",
    response_model=TakenBackAnswer,
    responses=problems(404),
    summary="Take one comparison back",
)
async def take_back(user: Segment, event_id: Segment, request: Request) -> Response:
    """Subtracts one comparison exactly; its event id stays used."""
    call: Call = request.state.call
    checked_user(user)
    try:
        checked_event_id(event_id)
    except ValueError as error:
        raise UnknownEvent(str(error)) from None
    after = await learning.take_back(call, user, event_id)
    seen = UserSeen(after.id, after.comparisons)
    return json_response(TakenBackAnswer(event_id, "taken-back", seen, weights_under(call, call.serving.family, after)))


def checked_user(user: str) -> str:
    """Returns the user of a path, held to the rules of the field `user`.

    Raises:
        InvalidRequest: no Unicode, or too long.
    """
    try:
        sound_unicode(user)
    except ValueError as error:
        raise invalid([FieldError("user", str(error))]) from None
    if len(user) > MAX_USER_CHARS:
        raise invalid([FieldError("user", f"has {len(user)} characters; at most {MAX_USER_CHARS} are allowed")])
    return user
