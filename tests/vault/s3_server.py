"""A real S3 server for the tests: the gateway of JuiceFS, which is MinIO's code, over a folder."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

from tests.support.product import free_port

from dumont.vault import S3Place

BUCKET = "dumont"
KEY_ID, SECRET = "tester", "a secret of tests"
PATIENCE_SECONDS = 60.0


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Place]:
    """Run the server over a folder and yield the place of its bucket."""
    program = str(Path(sys.executable).with_name("juicefs"))
    home = {"HOME": str(folder), "PATH": os.environ["PATH"], "MINIO_ROOT_USER": KEY_ID, "MINIO_ROOT_PASSWORD": SECRET}
    rows = f"sqlite3://{folder}/meta.db"
    made = [program, "format", rows, BUCKET, "--storage", "file", "--bucket", f"{folder}/blobs/", "--trash-days", "0"]
    subprocess.run(made, check=True, capture_output=True, env=home, timeout=PATIENCE_SECONDS)
    port = free_port()
    served = [program, "gateway", rows, f"127.0.0.1:{port}", "--no-usage-report", "--no-banner", "--no-bgjob"]
    served += ["--log", str(folder / "log"), "--backup-meta", "0", "--cache-dir", str(folder / "cache"), "--keep-etag"]
    with (folder / "out").open("wb") as out:
        server = subprocess.Popen(served, env=home, stdout=out, stderr=out, cwd=folder)
    try:
        _wait(server, f"http://127.0.0.1:{port}/minio/health/live", folder / "out")
        yield S3Place(f"http://127.0.0.1:{port}", BUCKET, "", KEY_ID, SECRET)
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait(server: "subprocess.Popen[bytes]", url: str, out: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            with urlopen(url, timeout=5):
                return
        except HTTPError:
            return
        except OSError:
            assert server.poll() is None and time.monotonic() < deadline, out.read_text()
            time.sleep(0.02)
