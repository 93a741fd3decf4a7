"""Moves of an instance's state that are one statement with what goes along with them: an end, or a beginning."""

from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from dumont.durable import Operation, begin_moving, new_operation
from dumont.instances.model import NEXT, Status
from dumont.instances.service import DESTROY_DEADLINE


def moving(*, sets: str, held: str = "", where: str = "") -> str:
    """Return what an `Ending` moves: the instance, with further columns that are set, as the state table allows.

    Shapes: `sets` are more of an UPDATE's columns; `held` joins rows that are locked with the instance, on `where`.
    """
    return (
        "held AS MATERIALIZED (SELECT instance.status AS was FROM instance, mine WHERE instance.id = :instance "
        "FOR NO KEY UPDATE OF instance), "
        f"moved AS (UPDATE instance SET status = :to, status_detail = NULL, version = version + 1, {sets} "
        f"FROM held {held} WHERE instance.id = :instance AND held.was = ANY(:before) {where} RETURNING held.was)"
    )


def moved_to(to: Status) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the values of `moving` for a new state, and the news of it."""
    before = [state.value for state, following in NEXT.items() if to in following]
    news = {"topic": f"instance.{to.value}", "data": {"to": to.value, "detail": None}}
    return {"to": to.value, "before": before}, news


_LEFT_ALONE = (
    "held AS MATERIALIZED (SELECT i.status AS was, jsonb_build_object('rentals', coalesce((SELECT jsonb_agg(r.id "
    "ORDER BY r.id) FROM rental r WHERE r.instance_id = i.id AND r.state <> 'released'), '[]')) AS input "
    "FROM instance i WHERE i.id = :instance_id AND i.status = ANY(:before) AND NOT i.protected "
    "AND NOT EXISTS (SELECT FROM operation o WHERE o.instance_id = i.id AND o.status = ANY(:live)) FOR NO KEY UPDATE)"
)
_DESTROYING = (
    "UPDATE instance SET status = :to, status_detail = NULL, version = version + 1 FROM held, made "
    "WHERE instance.id = :instance_id"
)


async def destroy_at_once(
    session: AsyncSession, team_id: str, instance_id: str, *, user_id: str, reason: str = "user_request"
) -> Operation | None:
    """Begin to destroy an instance that stands, is not protected and is left alone by all operations.

    The workflow is told which machines are left, as nobody can add one any more. None: nothing was done, and `destroy`
    says what is in the way, or does it.
    """
    operation = new_operation(
        "instances.destroy",
        team_id=team_id,
        resource=("instance", instance_id),
        instance_id=instance_id,
        inputs={"reason": reason},
        deadline=DESTROY_DEADLINE,
        requested_by=user_id,
        cancellable=False,
    )
    values, news = moved_to(Status.DESTROYING)
    begun = await begin_moving(session, operation, held=_LEFT_ALONE, moved=_DESTROYING, values=values, news=news)
    return operation if begun else None
