"""Where files are written: into devices, pipes and links, among threads, never over an input."""

import os
import stat
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from gendae.data.files import read_idx, read_labels, read_modality
from gendae.data.shards import ArrayFile
from gendae.data.sources import read_images
from gendae.storage import atomic, inputs
from gendae.storage.atomic import write_whole
from gendae.storage.sealed import read


def names(folder):
    return sorted(os.listdir(os.fsencode(folder)))


@pytest.fixture
def device(tmp_path):
    """A device that takes everything: one of our own, never the system's."""
    path = tmp_path / "null"
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        path.write_bytes(b"x")
    except OSError:
        pytest.skip("devices are made by root only")

    return path


def test_a_device_stays_a_device(device):
    write_whole(device, b"content")

    assert stat.S_ISCHR(device.stat().st_mode)
    assert names(device.parent) == [b"null"]


def test_a_pipe_gets_the_content(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=write_whole, args=(tmp_path / "pipe", b"x" * 200_000))
    writer.start()

    assert (tmp_path / "pipe").read_bytes() == b"x" * 200_000
    writer.join()
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@pytest.mark.parametrize("exists", [True, False], ids=["a link", "a link to nothing yet"])
def test_a_link_stays_a_link(tmp_path, exists):
    target = tmp_path / "folder" / "target"
    target.parent.mkdir()
    if exists:
        target.write_bytes(b"earlier")
    (tmp_path / "link").symlink_to("folder/target")
    (tmp_path / "chain").symlink_to("link")
    write_whole(tmp_path / "chain", b"later")

    assert (tmp_path / "chain").is_symlink() and (tmp_path / "link").is_symlink()
    assert target.read_bytes() == b"later"
    assert names(target.parent) == [b"target"]


def test_a_loop_of_links_is_named(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="loop was not written"):
        write_whole(tmp_path / "loop", b"x")


@pytest.mark.parametrize("deleted", [False, True])
@pytest.mark.parametrize("place", ["/dev/fd/{}", "/proc/self/fd/{}", "link"])
def test_an_open_file_gets_the_content_where_it_stands(tmp_path, place, deleted):
    descriptor = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
    os.write(descriptor, b"before ")
    if deleted:
        (tmp_path / "file").unlink()
    if place == "link":
        (tmp_path / "link").symlink_to(f"/dev/fd/{descriptor}")
    write_whole(tmp_path / place.format(descriptor), b"content")

    assert os.pread(descriptor, 100, 0) == b"before content"
    os.close(descriptor)
    left = ({"link"} if place == "link" else set()) | (set() if deleted else {"file"})
    assert set(os.listdir(tmp_path)) == left


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_permissions_of_an_earlier_file_stay(tmp_path, mode):
    path = write_whole(tmp_path / "x", b"earlier")
    path.chmod(mode)
    assert stat.S_IMODE(write_whole(path, b"later").stat().st_mode) == mode


def test_a_file_that_is_protected_from_writing_is_not_written(tmp_path, monkeypatch):
    path = write_whole(tmp_path / "x", b"earlier")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(PermissionError, match="x was not written"):
        write_whole(path, b"later")

    assert path.read_bytes() == b"earlier"
    assert names(tmp_path) == [b"x"]


def test_folders_that_were_made_for_nothing_go(tmp_path):
    with pytest.raises(OSError, match="was not written"):
        write_whole(tmp_path / "a" / "b" / ("n" * 300), b"x")

    assert names(tmp_path) == []


INTO_OUTPUT = """
from gendae.storage.atomic import write_whole
print("before")
write_whole("/dev/stdout", b"content\\n")
print("after")
"""


@pytest.mark.parametrize("pipe", [True, False], ids=["a pipe", "a file"])
def test_standard_output_has_the_content_in_its_place(tmp_path, pipe):
    with open(tmp_path / "out", "wb") as out:
        stream = subprocess.PIPE if pipe else out
        done = subprocess.run([sys.executable, "-c", INTO_OUTPUT], stdout=stream, check=True)

    content = done.stdout or (tmp_path / "out").read_bytes()
    assert content == b"before\ncontent\nafter\n"


@pytest.mark.parametrize(
    "name", [b"x\xff.npz", b"\xe4\xf6\xfc", "é" * 120, b"-", b" ", b"n" * 255]
)
def test_names_are_bytes(tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    assert write_whole(path, b"x") == path
    assert names(tmp_path) == [os.fsencode(name)]


def test_threads_write_one_name(tmp_path):
    path = write_whole(tmp_path / "x", bytes(20_000))
    failures = []

    def write(number):
        try:
            for _ in range(25):
                write_whole(path, bytes([number]) * 20_000)
                content = path.read_bytes()
                assert len(content) == 20_000 and len(set(content)) == 1
        except BaseException as error:  # noqa: BLE001 - told in the main thread
            failures.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not failures
    assert names(tmp_path) == [b"x"]


@pytest.mark.parametrize(
    ("origin", "process", "age", "stays"),
    [
        (None, "999999999", 0, False),
        (None, "²", 0, True),  # no number: int() would fail
        (None, "own", 0, True),
        (None, "own", 2, False),  # another process has the number now
        ("another", "1", 0, True),
        ("another", "1", 2, False),
    ],
)
def test_partial_files_of_killed_processes_go(tmp_path, origin, process, age, stays):
    process = str(os.getpid()) if process == "own" else process
    partial = tmp_path / f".gendae-{origin or atomic.origin()}-{process}-0a.partial"
    folder = partial.with_name(partial.name.replace("-0a.", "-0b."))
    folder.mkdir()
    (folder / "half").write_bytes(b"part")
    partial.write_bytes(b"part")
    written = time.time() - age * 24 * 60 * 60
    for left in (partial, folder):
        os.utime(left, (written, written))
    write_whole(tmp_path / "x", b"x")

    assert partial.exists() == folder.exists() == stays


# -- inputs ---------------------------------------------------------------------------------------


def spelled(path):
    """Names of a file: relative ones, through links to it and to its folder, a hard link."""
    folder = path.parent
    (folder / "link").symlink_to(path)
    (folder / "hard").hardlink_to(path)
    (folder / "here").symlink_to(folder)

    return [
        path,
        os.path.relpath(path),
        folder / ".." / folder.name / path.name,
        folder / "link",
        folder / "hard",
        folder / "here" / path.name,
    ]


def test_an_input_is_not_written_over_by_any_name(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((2, 4)))
    before = path.read_bytes()

    with inputs.kept_inputs():
        read_images(path)
        for name in spelled(path):
            with pytest.raises(ValueError, match="is a file that this command reads"):
                write_whole(name, b"x")

    assert path.read_bytes() == before
    assert write_whole(path, b"x").read_bytes() == b"x"  # a program may


def test_what_a_command_wrote_it_may_read_and_write_again(tmp_path):
    with inputs.kept_inputs():
        path = write_whole(tmp_path / "x", b"first")
        inputs.regular_file(path)
        write_whole(path, b"second")
        inputs.regular_file(path)
        write_whole(path, b"third")

    assert path.read_bytes() == b"third"


READERS = {
    "x.npy": [read_images, read_modality, lambda path: read_labels(path, 1), ArrayFile],
    "x.npz": [read_images, lambda path: read_labels(path, 1)],
    "x.png": [read_images],
    "x-ubyte": [read_images, read_idx, lambda path: read_labels(path, 1)],
    "x-ubyte.gz": [read_images],
    "x.ckpt": [read],
}


@pytest.mark.parametrize("kind", ["pipe", "device", "link to a pipe"])
@pytest.mark.parametrize("name", READERS)
def test_pipes_and_devices_are_refused_without_waiting(tmp_path, name, kind, request):
    path = tmp_path / name
    if kind == "device":
        request.getfixturevalue("device").rename(path)
    else:
        os.mkfifo(path)
    if kind == "link to a pipe":
        path = path.rename(tmp_path / "pipe")
        (tmp_path / name).symlink_to(path)

    for reader in READERS[name]:
        with pytest.raises(ValueError, match=f"{name}: not a regular file"):
            reader(tmp_path / name)


def test_a_folder_of_images_with_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "2.png")
    with pytest.raises(ValueError, match=r"2\.png: not a regular file"):
        read_images(tmp_path)
