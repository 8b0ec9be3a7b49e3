"""Claims of runs: one taker, whoever asks; the dead and the silent lose theirs."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from gendae.storage.atomic import origin, write_json
from gendae.training.claims import claimed, void

FORK = multiprocessing.get_context("fork")


def dead():
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def left_behind(path, processes, machine=None, age=0.0):
    """The claim of another process."""
    content = {"machine": machine or origin(), "processes": processes, "token": "other"}
    write_json(path, content)
    os.utime(path, (time.time() - age, time.time() - age))


def race(path, barrier, won):
    barrier.wait()
    claim = claimed(path, 60.0)
    if claim is not None:
        won.put(os.getpid())
        barrier.wait()
        os._exit(0)
    barrier.wait()


@pytest.mark.parametrize("void_one_lies_there", [False, True])
def test_of_several_processes_one_gets_the_run(tmp_path, void_one_lies_there):
    path = tmp_path / "row-0.json"
    if void_one_lies_there:
        left_behind(path, [dead()])

    barrier = FORK.Barrier(6)
    won = FORK.SimpleQueue()  # whose put is done when it returns
    processes = [FORK.Process(target=race, args=(path, barrier, won)) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    winner = won.get()
    assert won.empty()
    assert json.loads(path.read_text())["processes"] == [winner]


@pytest.mark.parametrize(
    ("processes", "machine", "age", "is_void"),
    [
        (["dead"], None, 0.0, True),
        (["own"], None, 0.0, False),
        (["dead", "own"], None, 0.0, False),  # its child is not done yet
        (["dead", "dead"], None, 0.0, True),
        (["dead"], "elsewhere", 0.0, False),  # of another machine only silence tells
        (["dead"], "elsewhere", 100.0, True),
        (["own"], None, 100.0, True),
        ("damaged", None, 0.0, False),
        ("damaged", None, 100.0, True),
    ],
)
def test_a_claim_is_void_where_nobody_works_at_it(tmp_path, processes, machine, age, is_void):
    path = tmp_path / "row-0.json"
    numbers = processes
    if processes != "damaged":
        numbers = [os.getpid() if one == "own" else dead() for one in processes]
    left_behind(path, numbers, machine, age)

    assert void(path, 60.0) == is_void
    claim = claimed(path, 60.0)
    assert (claim is not None) == is_void
    if claim is not None:
        claim.end()
        assert not path.exists()


def test_a_claim_is_touched_and_a_lost_one_is_left_to_its_taker(tmp_path):
    path = tmp_path / "row-0.json"
    claim = claimed(path, 0.12)
    time.sleep(0.4)
    assert not void(path, 0.12)

    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    claim.name_child(child.pid)
    assert json.loads(path.read_text())["processes"] == [os.getpid(), child.pid]
    left_behind(path, [1], "elsewhere", age=50.0)
    assert child.wait(20) == -signal.SIGTERM  # it would train beside the taker's
    assert not claim.held()
    assert time.time() - path.stat().st_mtime > 40.0  # and the claim is the taker's to touch

    late = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    claim.name_child(late.pid)
    assert late.wait(20) == -signal.SIGTERM
    claim.end()
    assert json.loads(path.read_text())["token"] == "other"
