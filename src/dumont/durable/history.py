"""Forget the engine's records of workflows that ended long ago; the operations that people see stay."""

from datetime import datetime

_ENDED = ["SUCCESS", "ERROR", "CANCELLED"]
_AT_ONCE = 500


async def forget_history(before: datetime) -> int:
    """Delete the engine's history of workflows that ended before a moment; return how many.

    Runs in a worker. Guarantees: a workflow that has not ended is never touched.
    """
    from dbos import DBOS

    gone = 0
    while True:
        old = await DBOS.list_workflows_async(
            status=_ENDED, completed_before=before.isoformat(), limit=_AT_ONCE, load_input=False, load_output=False
        )
        if not old:
            return gone
        await DBOS.delete_workflows_async([entry.workflow_id for entry in old])
        gone += len(old)
