"""The peer of a read: the least that FastAPI can do over the same pool, one route with one SELECT 1."""

import os
import socket
import sys

import uvicorn
from fastapi import FastAPI
from sqlalchemy import text

from dumont.db import Database


def main() -> None:
    """Serve on a free port until SIGTERM; BENCH_APP_URL is the database."""
    database = Database(os.environ["BENCH_APP_URL"], pool_size=8)
    app = FastAPI()

    @app.get("/one")
    async def one() -> dict[str, int]:
        async with database.begin() as session:
            return {"one": (await session.execute(text("SELECT 1"))).scalar_one()}

    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen(128)
    sys.stdout.write(f"bare http://127.0.0.1:{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off")
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
