"""Memory that was freed goes back to the system between two trainings of a process."""

import subprocess
import sys

import pytest

from gendae.training import fit

#: Small things that settle in the hole which 200 MB left, and what the process has after that.
GROWN = """
import numpy, resource
from gendae.training.memory import give_back_freed_memory, keep_freed_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20

keep_freed_memory()
before = resident()
data = numpy.ones(25 * 2**20)
small = [numpy.ones(100) for _ in range(1000)]
del data
kept = resident() - before
give_back_freed_memory()
print(kept, resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_a_training_leaves_is_given_back():
    command = [sys.executable, "-c", GROWN]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    kept, left = map(float, said.split())

    assert kept > 190
    assert left < 20


def test_a_training_begins_with_it(monkeypatch):
    order = []
    monkeypatch.setattr(fit, "give_back_freed_memory", lambda: order.append("given back"))
    monkeypatch.setattr(fit, "FitCLI", lambda *_: order.append("fit") or pytest.fail("enough"))

    with pytest.raises(pytest.fail.Exception, match="enough"):
        fit.main(["fit"])
    assert order == ["given back", "fit"]
