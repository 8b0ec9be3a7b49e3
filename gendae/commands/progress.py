"""What a long command is doing, as a bar on a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def bar_of_steps(total: int) -> Iterator[Callable[[str], None]]:
    """A function to be called with the name of each step as it begins; it moves a bar on stderr.

    Where stderr is no terminal, as in logs and pipes, nothing is written. At the end it goes.

    Args:
        total: how many steps there are.

    Example:
        >>> with bar_of_steps(2) as begin:
        ...     begin("samples")
        ...     begin("their score")
    """
    shape = "{n_fmt}/{total_fmt} |{bar:20}| {elapsed} {desc}"
    with tqdm(total=total, bar_format=shape, leave=False, disable=None) as bar:

        def begin(name: str) -> None:
            bar.set_description_str(name, refresh=False)
            bar.update()
            bar.refresh()

        yield begin
