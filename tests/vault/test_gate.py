"""The gate serves exactly what was signed, and says clearly what it refuses."""

import errno
import http.client
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dumont.vault import Gate, LocalStore, StoreError

Ask = Callable[..., tuple[int, bytes]]


@pytest.fixture
def ask(gate: Gate) -> Ask:
    port = gate.start()

    def call(method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request(method, path, body=body, headers=headers)
        response = connection.getresponse()
        found = response.status, response.read()
        connection.close()
        return found

    return call


def code(answer: tuple[int, bytes]) -> tuple[int, str]:
    return answer[0], json.loads(answer[1])["code"]


def test_put_then_get_by_signed_paths(gate: Gate, ask: Ask) -> None:
    """A PUT stores, the same PUT again is fine, other bytes are refused; GET serves the whole and ranges."""
    put = gate.sign("PUT", "data/aa/x", max_bytes=100, expires_in=60)
    assert ask("PUT", put, b"0123456789")[0] == 201
    assert ask("PUT", put, b"0123456789")[0] == 200
    assert code(ask("PUT", put, b"9876543210")) == (409, "exists")
    assert code(ask("PUT", put, b"012345678")) == (409, "exists")
    assert gate.store.get("data/aa/x") == b"0123456789"
    get = gate.sign("GET", "data/aa/x", max_bytes=100, expires_in=60)
    assert ask("GET", get) == (200, b"0123456789")
    assert ask("GET", get, Range="bytes=2-4") == (206, b"234")
    assert ask("GET", get, Range="bytes=8-99") == (206, b"89")
    for bad in ("bytes=10-11", "bytes=5-2", "bytes=-3", "lines=1-2"):
        assert code(ask("GET", get, Range=bad)) == (416, "bad_range")
    narrow = gate.sign("GET", "data/aa/x", max_bytes=3, expires_in=60)
    assert code(ask("GET", narrow)) == (413, "too_large") and ask("GET", narrow, Range="bytes=0-2")[0] == 206
    absent = gate.sign("GET", "data/aa/y", max_bytes=3, expires_in=60)
    assert code(ask("GET", absent)) == (404, "not_found")


def test_everything_else_is_refused(gate: Gate, ask: Ask) -> None:
    """Unsigned, altered, expired, for another method, too large, without length: nothing is stored or told."""
    put = gate.sign("PUT", "a", max_bytes=10, expires_in=60)
    gate.store.put("b", b"secret")
    assert code(ask("PUT", put, b"x" * 11)) == (413, "too_large")
    assert code(ask("PUT", put.replace("l=10", "l=99"), b"x")) == (403, "bad_signature")
    assert code(ask("PUT", put.replace("/o/a", "/o/c"), b"x")) == (403, "bad_signature")
    assert code(ask("GET", put)) == (405, "wrong_method")
    assert code(ask("GET", put.replace("m=PUT", "m=GET").replace("/o/a", "/o/b"))) == (403, "bad_signature")
    assert code(ask("PUT", gate.sign("PUT", "a", max_bytes=10, expires_in=-1), b"x")) == (403, "expired")
    assert code(ask("GET", "/o/b")) == (404, "not_found") and code(ask("GET", "/")) == (404, "not_found")
    assert code(ask("GET", "/o/b?m=GET&l=²&e=1&s=x".replace("²", "%C2%B2"))) == (403, "bad_signature")
    for method in ("POST", "DELETE", "PATCH"):
        assert code(ask(method, put)) == (405, "wrong_method")
    assert code(ask("PUT", put, **{"Transfer-Encoding": "chunked"})) == (411, "length_required")
    assert list(gate.store.list("")) == [("b", 6)]


def test_a_body_that_is_cut_stores_nothing(gate: Gate) -> None:
    """A connection that breaks in mid-body leaves no object."""
    port = gate.start()
    path = gate.sign("PUT", "a", max_bytes=1000, expires_in=60)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf".encode())
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1000) == b""
    assert [p for p in Path(gate.store.root).rglob("*") if p.is_file()] == []  # type: ignore[attr-defined]


def test_a_full_store_is_507(tmp_path: Path) -> None:
    """No space and a broken disk are told apart."""
    store = LocalStore(tmp_path)
    gate = Gate(store, b"secret")
    port = gate.start()
    for number, wanted in ((errno.ENOSPC, (507, "store_full")), (errno.EIO, (500, "store_failed"))):

        def opener(path: Path, mode: str, number: int = number) -> object:
            raise OSError(number, "injected")

        store._open = opener  # type: ignore[assignment]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("PUT", gate.sign("PUT", "a", max_bytes=10, expires_in=60), body=b"x")
        response = connection.getresponse()
        assert (response.status, json.loads(response.read())["code"]) == wanted
        connection.close()
    gate.stop()
    with pytest.raises(StoreError):
        store.get("a")


def test_many_at_once_and_exactly_one_wins(gate: Gate, ask: Ask) -> None:
    """Eight different writers of one name: one is stored, seven are told so."""
    path = gate.sign("PUT", "a", max_bytes=100_000, expires_in=60)
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: found.append(ask("PUT", path, bytes([n]) * 100_000)[0])) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [201] + [409] * 7
    assert len(set(gate.store.get("a"))) == 1
