"""The route by which a running machine learns one more SSH key."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from dumont.http import CallerDep, Router, permit, raises
from dumont.identity import SshKeyNotFound, own_ssh_keys
from dumont.instances import keys
from dumont.instances.api import read_instance
from dumont.instances.model import InstanceNotFound, InstanceNotRunning

router = Router(prefix="/api/v1/instances", tags=["instances"])


class AttachKeyBody(BaseModel):
    """Which of the caller's registered keys."""

    model_config = ConfigDict(extra="ignore")

    ssh_key_id: Annotated[str, Field(min_length=1, max_length=64)]


class AttachingDocument(BaseModel):
    """The keys that the machine is given by an operation."""

    operation_id: str
    fingerprints: list[str]


@router.post(
    "/{instance_id}/ssh/keys",
    status_code=202,
    **permit("gpu.provision"),
    responses=raises(InstanceNotFound, InstanceNotRunning, SshKeyNotFound),
)
async def attach_key(instance_id: str, body: AttachKeyBody, caller: CallerDep) -> AttachingDocument:
    """Let one of the caller's SSH keys into a running machine; once more changes nothing.

    It is the machine that learns the key: on another one, after a wake elsewhere, are the keys of who woke it.
    """
    instance = await read_instance(caller.session, instance_id)
    own = {key.id: key for key in await own_ssh_keys(caller.session, caller.user_id)}
    if body.ssh_key_id not in own:
        raise SshKeyNotFound("You have no SSH key with this id. List your keys, or add one.")
    key = own[body.ssh_key_id]
    operation = await keys.attach(caller.session, instance, key, user_id=caller.user_id)
    return AttachingDocument(operation_id=operation.id, fingerprints=[key.fingerprint])
