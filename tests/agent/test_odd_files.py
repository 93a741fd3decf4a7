"""What real trees hold besides plain files: attributes, sockets, devices, long names, holes, links that lead out."""

import ctypes
import os
import random
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dumont.agent import AgentFailed, compare_workspace
from dumont.agent.exchange import remove_tree

Look = Callable[[Path], dict[str, tuple[object, ...]]]


def attributes(root: Path) -> dict[str, dict[str, bytes]]:
    """Return the user's extended attributes below a folder, read without the product."""
    found = {}
    for path in sorted(root.rglob("*")):
        names = os.listxattr(path, follow_symlinks=False)
        pairs = {name: os.getxattr(path, name, follow_symlinks=False) for name in names if name.startswith("user.")}
        if pairs:
            found[str(path.relative_to(root))] = pairs
    return found


async def test_extended_attributes_come_back(vault: Any, machines: Any) -> None:
    """Those of a user, of files and folders, read-only ones too; one that changed alone is a change."""
    machine, other = machines("first"), machines("second")
    (machine.workspace / "folder").mkdir()
    (machine.workspace / "folder" / "model").write_bytes(b"weights")
    (machine.workspace / "plain").write_text("none")
    os.setxattr(machine.workspace / "folder", "user.owner", b"me")
    os.setxattr(machine.workspace / "folder/model", "user.z", bytes(range(256)))
    os.setxattr(machine.workspace / "folder/model", "user.a", b"")
    (machine.workspace / "folder/model").chmod(0o444)
    link = await machine.link()
    first = await vault.save(link)
    back = await other.link()
    await vault.restore(back, first.name)
    assert attributes(other.workspace) == attributes(machine.workspace) != {}
    os.setxattr(machine.workspace / "plain", "user.new", b"1")
    second = await vault.save(link)
    await vault.restore(back, second.name)
    assert attributes(other.workspace) == attributes(machine.workspace)
    os.removexattr(machine.workspace / "plain", "user.new")
    await vault.restore(back, (await vault.save(link)).name)
    assert attributes(other.workspace) == attributes(machine.workspace)


async def test_what_is_no_file_is_named_and_never_opened(vault: Any, machines: Any, tmp_path: Path) -> None:
    """Pipes, sockets and devices are listed as skipped; nobody waits on them, and the rest is saved."""
    machine = machines("first")
    (machine.workspace / "file").write_text("file")
    os.mkfifo(machine.workspace / "pipe")
    listener = socket.socket(socket.AF_UNIX)
    odd = ["pipe", "socket"]
    with listener:
        here = Path.cwd()
        os.chdir(machine.workspace)
        try:
            listener.bind("socket")
        finally:
            os.chdir(here)
        try:
            os.mknod(machine.workspace / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
            odd.insert(0, "null")
        except PermissionError:
            pass
        saved = await vault.save(await machine.link())
    assert (sorted(saved.skipped), saved.files, saved.read_errors) == (odd, 1, [])


async def test_names_up_to_the_longest_path_come_back(vault: Any, machines: Any, look: Look) -> None:
    """Names of 255 bytes that are no UTF-8, nested as deep as a path of 4,096 bytes goes; what is longer is named."""
    machine, other = machines("first"), machines("second")
    root = os.fsencode(machine.workspace)
    room = 4095 - len(os.fsencode(other.workspace)) - len("/.dumont-partial-0123456789abcdef/") - 8
    folder = b"/".join([b"\xff" * 255] * (room // 256))
    Path(os.fsdecode(root + b"/" + folder)).mkdir(parents=True)
    name = b"\xfe" * (room - len(folder) - 1)
    Path(os.fsdecode(root + b"/" + folder + b"/" + name)).write_bytes(b"deep")
    link = await machine.link()
    saved = await vault.save(link)
    assert (saved.read_errors, saved.files) == ([], 1)
    await vault.restore(await other.link(), saved.name)
    assert look(other.workspace) == look(machine.workspace)
    here = os.open(root + b"/" + folder, os.O_RDONLY)
    for _ in range(3):
        os.mkdir(b"d" * 200, dir_fd=here)
        deeper = os.open(b"d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    again = await vault.save(link)
    assert again.files == 1 and [reason for _, reason in again.read_errors] == ["File name too long"]


def test_a_tree_of_very_many_levels_is_removed(tmp_path: Path) -> None:
    """More folders in each other than a program may call itself."""
    deep = tmp_path / "deep"
    here = os.open(tmp_path, os.O_RDONLY)
    for name in ["deep", *["d"] * 1100]:
        os.mkdir(name, dir_fd=here)
        inner = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    remove_tree(os.fsencode(deep))
    assert not deep.exists()


async def test_links_that_lead_out_are_kept_and_never_followed(
    vault: Any, machines: Any, tmp_path: Path, look: Look
) -> None:
    """Neither a save nor a restore nor a comparison reads, changes or takes over anything behind one."""
    machine, other = machines("first"), machines("second")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("same")
    os.utime(outside / "file", ns=(10**18, 10**18))
    (machine.workspace / "way").mkdir()
    (machine.workspace / "way" / "file").write_text("same")
    os.utime(machine.workspace / "way/file", ns=(10**18, 10**18))
    (machine.workspace / "out").symlink_to(outside)
    (machine.workspace / "up").symlink_to("../../..")
    (other.workspace / "way").symlink_to(outside)
    saved = await vault.save(await machine.link())
    assert saved.files == 1
    back = await other.link()
    await vault.restore(back, saved.name)
    assert look(other.workspace) == look(machine.workspace)
    assert (outside / "file").stat().st_nlink == 1
    assert (other.workspace / "way/file").stat().st_ino != (outside / "file").stat().st_ino
    assert (await compare_workspace(back, vault.repository, saved.name)).equal


@pytest.mark.checklist("SNAP-08")
async def test_a_sparse_file_of_20_gb_stays_sparse(vault: Any, machines: Any) -> None:
    """Its holes are neither read, nor sent, nor written, nor hashed again; both agents stay below 400 MB."""
    machine, other = machines("first"), machines("second")
    size, spot = 20 << 30, 7 << 30
    body = random.Random(5).randbytes(3 << 20)
    with (machine.workspace / "disk.img").open("wb") as stream:
        stream.truncate(size)
        stream.seek(spot)
        stream.write(body)
    link, back = await machine.link(), await other.link()
    saved = await vault.save(link)
    assert saved.bytes_total == size and saved.bytes_stored < 16 << 20
    assert vault.reopened().verify(saved.name).merkle_root == saved.merkle_root
    await vault.restore(back, saved.name)
    restored = other.workspace / "disk.img"
    assert restored.stat().st_size == size and restored.stat().st_blocks * 512 < 16 << 20
    with restored.open("rb") as stream:
        stream.seek(spot)
        assert stream.read(len(body)) == body
    for agent in (link, back):
        status = Path(f"/proc/{agent.hello.pid}/status").read_text()
        assert int(status.partition("VmHWM:")[2].split()[0]) < 400_000


FULL = """
import os
plain, left = os.pwrite, [3]
def pwrite(descriptor, data, offset):
    left[0] -= 1
    if left[0] < 0: raise OSError(28, 'No space left on device')
    return plain(descriptor, data, offset)
os.pwrite = pwrite
from dumont.agent.main import main; main()
"""


FULL_AT_ONCE = """
import ctypes
import dumont.agent.fetching as fetching, dumont.agent.writing as writing
def allocate(*args):
    ctypes.set_errno(28)
    return -1
def stream(*args):
    raise AssertionError("fetched, though there is no room")
writing._allocate, fetching._Fetching.stream = allocate, stream
from dumont.agent.main import main; main()
"""


async def test_room_is_kept_before_anything_is_fetched(
    vault: Any, machines: Any, look: Look, leftovers: Any, tmp_path: Path
) -> None:
    """A disk that is too small is found out before the first byte comes; one that is not has the room from then on."""
    from dumont.agent.writing import Writer, _allocate
    from dumont.vault import Entry, Kind

    machine, other = machines("first"), machines("second")
    (machine.workspace / "large").write_bytes(random.Random(1).randbytes(2 << 20))
    (other.workspace / "old").write_text("old")
    before, saved = look(other.workspace), await vault.save(await machine.link())
    with pytest.raises(AgentFailed) as failed:
        await vault.restore(await other.link(FULL_AT_ONCE), saved.name)
    assert failed.value.code == "no_space" and "space" in failed.value.detail
    assert (look(other.workspace), leftovers(other.workspace)) == (before, [])

    sizes = {b"kept": (3 << 20, False), b"holes": (3 << 20, True), b"little": (1000, False)}
    for path, (size, sparse) in sizes.items():
        entry = Entry(path, Kind.FILE, 0o644, 0, 0, 0, size, chunks=(b"c" * 32,) * 2, sparse=sparse)
        Writer(os.fsencode(tmp_path), vault.repository.sealer).begin(entry)
    taken = {path: (tmp_path / os.fsdecode(path)).stat().st_blocks for path in sizes}
    with (tmp_path / "probe").open("wb") as probe:  # no room is kept where a file system cannot
        _allocate(probe.fileno(), 0, ctypes.c_int64(0), ctypes.c_int64(3 << 20))
        assert taken == {b"kept": os.fstat(probe.fileno()).st_blocks, b"holes": 0, b"little": 0}


async def test_a_full_disk_leaves_the_target_as_it_was(vault: Any, machines: Any, look: Look, leftovers: Any) -> None:
    """The reason is told, nothing of ours stays, and the next try works."""
    machine, other = machines("first"), machines("second")
    for number in range(6):
        (machine.workspace / f"f{number}").write_bytes(random.Random(number).randbytes(300_000))
    (other.workspace / "old").write_text("old")
    before = look(other.workspace)
    saved = await vault.save(await machine.link())
    with pytest.raises(AgentFailed) as failed:
        await vault.restore(await other.link(FULL), saved.name)
    assert failed.value.code == "no_space" and "space" in failed.value.detail
    assert (look(other.workspace), leftovers(other.workspace)) == (before, [])
    await vault.restore(await other.link(), saved.name)
    assert look(other.workspace) == look(machine.workspace)
