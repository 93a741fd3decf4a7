"""Become a PostgreSQL program: drop root, ask the kernel for a signal at the parent's death, and exec.

Run as a script by `python -I -S`, never imported: doing this between fork and exec of a threaded parent can hang it.
The signal is asked for after the change of user, which would clear it.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1
"""Source: prctl(2), linux/prctl.h."""


def main() -> None:
    """Read `parent uid gid signal folder program...` and become the program; uid -1 keeps the user."""
    parent, uid, gid, signal = (int(word) for word in sys.argv[1:5])
    folder, program = sys.argv[5], sys.argv[6:]
    os.setsid()
    os.umask(0o077)
    if uid >= 0:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    os.chdir(folder)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal, 0, 0, 0) != 0:
        sys.exit(f"prctl failed with errno {ctypes.get_errno()}")
    if os.getppid() != parent:
        sys.exit("the parent is gone")
    os.execv(program[0], program)


if __name__ == "__main__":
    main()
