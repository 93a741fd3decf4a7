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


class Gateway:
    """The server over a folder; it may be killed and started again at the same place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.place = S3Place(f"http://127.0.0.1:{self.port}", BUCKET, "", KEY_ID, SECRET)
        self._home = {
            **{"HOME": str(folder), "PATH": os.environ["PATH"]},
            **{"MINIO_ROOT_USER": KEY_ID, "MINIO_ROOT_PASSWORD": SECRET},
        }
        self._program = str(Path(sys.executable).with_name("juicefs"))
        self._rows = f"sqlite3://{folder}/meta.db"
        self._server: subprocess.Popen[bytes] | None = None
        made = [self._program, "format", self._rows, BUCKET, "--storage", "file"]
        made += ["--bucket", f"{folder}/blobs/", "--trash-days", "0"]
        subprocess.run(made, check=True, capture_output=True, env=self._home, timeout=PATIENCE_SECONDS)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        served = [self._program, "gateway", self._rows, f"127.0.0.1:{self.port}", "--no-usage-report", "--no-banner"]
        served += ["--no-bgjob", "--log", str(self.folder / "log"), "--backup-meta", "0"]
        served += ["--cache-dir", str(self.folder / "cache"), "--keep-etag"]
        with (self.folder / "out").open("ab") as out:
            self._server = subprocess.Popen(served, env=self._home, stdout=out, stderr=out, cwd=self.folder)
        _wait(self._server, f"http://127.0.0.1:{self.port}/minio/health/live", self.folder / "out")

    def kill(self) -> None:
        """End the server at once, with whatever it was doing."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()

    def end(self) -> None:
        """End the server in good order."""
        assert self._server is not None
        self._server.terminate()
        try:
            self._server.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Place]:
    """Run the server over a folder and yield the place of its bucket."""
    gateway = Gateway(folder)
    gateway.start()
    try:
        yield gateway.place
    finally:
        gateway.end()


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
