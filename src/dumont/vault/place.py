"""Where a bucket is and who may use it; read from the settings long before anybody speaks to a bucket."""

from typing import NamedTuple


class S3Place(NamedTuple):
    """A place in a bucket and the key to it. Shapes: `endpoint` is a URL without the bucket; `prefix` has no slashes
    at its ends."""

    endpoint: str
    bucket: str
    prefix: str
    key_id: str
    secret: str
    region: str = "us-east-1"

    def __repr__(self) -> str:
        return "S3Place"  # no secret in a log
