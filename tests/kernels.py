"""Kernels of notebooks, forked from the process that has imported the packages instead of started."""

import os
import sys
import time
from multiprocessing.process import BaseProcess
from typing import Any

from tests.processes import start

PARENT = "JPY_PARENT_PID"  # a kernel ends when its parent is another, which a fork's is


class Forked:
    """A process as ``subprocess.Popen`` shows it to who looks after kernels."""

    stdin = stdout = stderr = None

    def __init__(self, process: BaseProcess):
        self._process, self.pid = process, process.pid
        self.kill, self.terminate = process.kill, process.terminate
        while process.is_alive() and os.getpgid(process.pid) != process.pid:  # signals go to its group: not ours
            time.sleep(0.001)

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int | None:
        self._process.join()
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self._process.pid, number)


def fork_kernel(command: list[str], *, env: dict[str, str], cwd: str | None = None, **streams: Any) -> Forked:
    """Stands in for ``jupyter_client.launcher.launch_kernel``: ``python [options] -m ipykernel_launcher -f FILE``."""
    arguments = command[command.index("ipykernel_launcher") + 1 :]
    return Forked(start(_kernel, arguments, {name: env[name] for name in env if name != PARENT}, cwd))


def _kernel(arguments: list[str], environment: dict[str, str], folder: str | None) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder or os.curdir)
    sys.argv = ["ipykernel_launcher", *arguments]
    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance()
