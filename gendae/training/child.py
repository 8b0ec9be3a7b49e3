"""A module that runs as `python -m` does, in a process that ends when its parent does.

    python -c START HOME PARENT MODULE [ARGUMENT ..]

`python -m` would look for modules in the working folder first, and take a `gendae/` there for this
one. START leaves that folder out, and takes the package from HOME: it is the parent's own.

A killed process cannot end its children, and a training without it would go on unseen. The child
looks for its parent, and sends itself SIGTERM once that is gone: `gendae fit` then writes a
last.ckpt from which it goes on.
"""

import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import gendae

#: Seconds between two looks.
EVERY = 0.5
#: What a child begins with; Python 3.10 has no option -P, which would do a part of it.
START = """
import sys
sys.path = [place for place in sys.path if place]
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
spec = PathFinder.find_spec("gendae", [sys.argv.pop(1)])
sys.modules["gendae"] = module_from_spec(spec)
spec.loader.exec_module(sys.modules["gendae"])
from gendae.training.child import main
main()
"""


def command(module: str, arguments: Sequence[str]) -> list[str]:
    """The words of a process that runs a module as the child of this one."""
    home = Path(gendae.__file__).resolve().parents[1]
    return [sys.executable, "-c", START, str(home), str(os.getpid()), module, *arguments]


def end_with(parent: int) -> None:
    """End this process, by SIGTERM, once its parent is another than this one."""

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(EVERY)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=look, daemon=True).start()


def main() -> None:
    """Run the module that the command line names."""
    _, parent, module, *arguments = sys.argv
    end_with(int(parent))

    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
