"""No process of ours outlives the command that started it, whatever that dies of, however many lie between the two.

A command's own children can be asked of the kernel to die with it. But a training process stands behind a shell script,
perhaps behind a second one, torchrun or a profiler, in a session of its own. So each script and each Python command
adds its number to a variable that its children inherit, and each Python command watches all whose numbers it finds.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time

LAUNCHERS = "BERT_LAUNCHERS"
SECONDS_TO_END = 150  # in which a run may write its checkpoint; launch.sh gives torchrun as many
SECONDS_BETWEEN_LOOKS = 0.5
PR_SET_PDEATHSIG = 1  # prctl(2)


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def end_with_launchers() -> None:
    """Send this process SIGTERM when any of its launchers ends, and kill it where it does not end by that."""
    launchers = os.environ.get(LAUNCHERS, "").split()
    own = str(os.getpid())
    if own not in launchers:  # a script that became this process by exec
        os.environ[LAUNCHERS] = " ".join([*launchers, own])
    watched = [int(number) for number in launchers if number.isdecimal() and number != own]
    if "TORCHELASTIC_RUN_ID" in os.environ:
        watched.append(os.getppid())  # torchrun, which is not ours
    if watched:
        threading.Thread(target=_watch, args=(watched,), name="launchers", daemon=True).start()


def _watch(launchers: list[int]) -> None:
    try:
        import psutil  # here, as check_environment.sh tells of missing packages, this one too
    except ModuleNotFoundError:
        return
    with contextlib.suppress(psutil.NoSuchProcess):  # one ended before
        processes = [psutil.Process(number) for number in launchers]
        while all(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes):
            time.sleep(SECONDS_BETWEEN_LOOKS)
    with contextlib.suppress(OSError):  # of the end of a pipe, perhaps
        print("warning: the command that started this one has ended, so it ends too", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SECONDS_TO_END)
    os.kill(os.getpid(), signal.SIGKILL)
