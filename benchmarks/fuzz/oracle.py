"""The oracle: a result is sane, or one clear line names what was typed and no file is changed."""

import contextlib
import io
import os
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gendae.cli import main

#: For each target, how many cases worked and how many were refused.
TALLY: dict[str, Counter] = defaultdict(Counter)
#: What a call may take beyond what the process has: a header that promises more is not believed.
MEMORY = 3 << 30
#: Most characters of a message.
LONGEST = 500


@contextlib.contextmanager
def bounded_memory(allowed: int = MEMORY) -> Iterator[None]:
    """Larger allocations fail, so that none takes the machine's memory. Linux only."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        yield
        return

    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(statm.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + allowed, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def require_clear(message: str, typed: Sequence[object], longest: int = LONGEST) -> None:
    """Fail unless a message is one line, not too long, and names something the user typed."""
    assert message.strip(), "an empty message"
    assert "\n" not in message.strip(), f"more than one line: {message}"
    assert "Traceback" not in message
    assert len(message) < longest, f"{len(message)} characters: {message}"

    alone = re.findall(r"-?[\w.]+|\S", message)  # where a short word must stand alone
    for word in map(str, typed):
        if word in (message if len(word) > 2 else alone) and word:
            return
    raise AssertionError(f"names nothing of {typed}: {message}")


def outcome(target: str, call: Callable[[], Any], typed: Sequence[object]) -> Any:
    """The result of a call; None where one clear ValueError or OSError refused it."""
    with warnings.catch_warnings(), bounded_memory():
        warnings.simplefilter("ignore")
        try:
            result = call()
        except (ValueError, OSError) as error:
            require_clear(str(error), typed, 3 * LONGEST)
            TALLY[target]["refused"] += 1
            return None

    TALLY[target]["worked"] += 1
    return result


# -- commands ------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, with its bytes."""
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def words(arguments: Sequence[str]) -> list[str]:
    """What of the arguments a message may name.

    Each argument itself, without its dashes, and both sides of NAME=VALUE.
    """
    named = []
    for argument in map(str, arguments[1:]):
        bare = argument.lstrip("-")
        named += [argument, bare, bare.replace("-", "_"), *argument.split("=")]
        named += [argument[:60], argument[-60:], repr(argument)[1:-1]]
        named += [str(Path(argument)), os.path.expanduser(argument)]
        named += re.findall(r"[\w.]+", argument)

    return [word for word in named if word] or list(arguments[:1])


def require_readable(path: Path) -> None:
    """Fail unless an output file can be read back."""
    if path.suffix == ".png":
        with Image.open(path) as image:
            image.load()

    if path.suffix in (".npz", ".npy"):
        loaded = np.load(path)
        for name in getattr(loaded, "files", []):
            assert np.isfinite(loaded[name]).all(), f"{path}: {name} is not finite"


def run_in(folder: Path, arguments: Sequence[str]) -> tuple[int, bool, str]:
    """Exit code, whether the arguments were parsed, and what was said on stderr."""
    here = Path.cwd()
    out = io.StringIO()
    err = io.StringIO()
    parsed = True

    os.chdir(folder)
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(),
            bounded_memory(),
        ):
            warnings.simplefilter("ignore")
            try:
                code = main(list(arguments))
            except SystemExit as stop:
                code = stop.code
                parsed = False
    finally:
        os.chdir(here)

    return code, parsed, err.getvalue()


def command(target: str, folder: Path, arguments: Sequence[str], also: Sequence[str] = ()) -> int:
    """The exit code of a command in a folder, under the oracle. Messages may name `also`, too."""
    before = contents(folder)
    code, parsed, said = run_in(folder, arguments)
    after = contents(folder)

    made = [name for name in after if after[name] != before.get(name)]
    assert before.keys() <= after.keys(), f"gone: {before.keys() - after.keys()}"
    assert not any(Path(name).name.startswith(".") for name in made), f"left behind: {made}"

    if code == 0:
        TALLY[target]["worked"] += 1
        for name in made:
            require_readable(folder / name)
        return code

    TALLY[target]["refused"] += 1
    assert code in (1, 2), f"exit code {code}: {said}"
    assert code == 2 or parsed, f"exit code {code}: {said}"
    assert not made, f"a refused command wrote {made}"
    require_one_error(said, parsed, [*words(arguments), *also])

    return code


def require_one_error(said: str, parsed: bool, typed: Sequence[str]) -> None:
    """Fail unless stderr holds one clear error; argparse has its own form for what it refuses."""
    assert "Traceback" not in said
    errors = [line for line in said.splitlines() if "error:" in line]
    if not parsed:
        assert errors, f"no reason: {said}"
        return

    assert len(errors) == 1, said
    assert errors[0].startswith("gendae: error: "), said
    require_clear(errors[0].removeprefix("gendae: error: "), typed)
