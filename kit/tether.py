"""Replace this process by a program that the kernel kills when its parent ends.

    python kit/tether.py SIGNAL PARENT_PID -- PROGRAM ARGUMENT...

The promise: once PROGRAM runs, the death of the process PARENT_PID (of its thread that created this process,
to be exact) sends SIGNAL to it, however that parent ends, SIGKILL included. Where the parent is gone already,
PROGRAM never runs and the exit code is 125. PROGRAM keeps this process' pid and starts with every signal at
its default. A PROGRAM that cannot be executed ends with 127.

The kernel forgets the death signal when a process changes its credentials or enters a user namespace, so
whatever does either must come before this launcher. It is also forgotten by fork: PROGRAM's own children are
PROGRAM's affair.

Only the standard library is imported, and little of it: this runs before each process of the suite.
"""

import ctypes
import os
import signal
import sys

# From linux/prctl.h.
_PR_SET_PDEATHSIG = 1

_PARENT_GONE = 125
_CANNOT_EXECUTE = 127


def main(arguments: list[str]) -> int:
    """Become the program that the arguments name; returns, with an exit code, only where it cannot."""
    if len(arguments) < 4 or arguments[2] != "--":  # noqa: PLR2004 - signal, parent, the separator, a program
        sys.stderr.write("usage: tether SIGNAL PARENT_PID -- PROGRAM ARGUMENT...\n")
        return _CANNOT_EXECUTE
    death_signal, parent_pid, program = int(arguments[0]), int(arguments[1]), arguments[3:]

    # What a shell set to "ignore" for a background job would be inherited for ever.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        sys.stderr.write(f"tether: no death signal: {os.strerror(ctypes.get_errno())}\n")
        return _CANNOT_EXECUTE
    # A parent that ended before the line above sends nothing; by now it has been replaced by another one.
    if os.getppid() != parent_pid:
        return _PARENT_GONE

    try:
        os.execvp(program[0], program)  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.stderr.write(f"tether: {program[0]}: {error.strerror}\n")
    return _CANNOT_EXECUTE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
