"""A module that runs as `python -m` does, in a process that ends when its parent does.

    python -m gendae.training.child PARENT MODULE [ARGUMENT ..]

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

#: Seconds between two looks.
EVERY = 0.5


def end_with(parent: int) -> None:
    """End this process, by SIGTERM, once its parent is another than this one."""

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(EVERY)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=look, daemon=True).start()


if __name__ == "__main__":
    _, parent, module, *arguments = sys.argv
    end_with(int(parent))

    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
