"""`gendae demo`."""

import contextlib
import webbrowser
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from gendae import checks
from gendae.commands.common import Table, load_generative
from gendae.demo.bundle import model_script, page_files, standalone
from gendae.demo.server import Files, Server
from gendae.demo.weights import BITS, page_model
from gendae.storage import model_file
from gendae.storage.atomic import write_whole

#: The models of the page's other sections.
JOINT = "mnist-joint-label"
TOY = "toy-field"

#: Scripts by the role of the model that they give.
Scripts = dict[str, Callable[[], bytes]]


def demo(
    model: str = "mnist-targetprop-parzen",
    *,
    port: int = 8410,
    out: str | None = None,
    bits: int = 32,
    open: bool = False,
) -> Table:
    """A page to play with: draw half a digit and watch inference fill in the rest.

    Beside it: samples and a chain at any level, the field of a two-dimensional model, labels to
    images and back, and targets while a small network learns. The page computes by itself; this
    command serves it to this machine alone until it is interrupted, or writes it into a folder.

    Args:
        model: name or file of a model of images, of affine layers.
        port: of http://127.0.0.1; 0 takes a free one.
        out: folder for the page as files that need no server, instead of serving it.
        bits: of a weight: 32, or 8 for a page of a quarter of the size.
        open: show it in the browser.
    """
    checks.whole("--port", port, 0, 65_535)
    if bits not in BITS:
        raise ValueError(f"--bits {bits} is no size of a weight on the page; accepted: 8, 32")

    if out is not None and open:
        raise ValueError("--open shows the page that is served; it does not go with --out")

    scripts = scripts_of(model, bits)
    if out is not None:
        return _write(Path(out), scripts)
    return _serve(files_of(scripts), port, open)


def scripts_of(model: str, bits: int = 32) -> Scripts:
    """What gives the page its three models, by their roles.

    Raises:
        ValueError: for a model that the page cannot show.
    """
    images = page_model(load_generative(model), Path(model).stem, bits)
    if images["kind"] != "image":
        raise ValueError(f"{model} is a model of {images['kind']}; the page draws images")

    return {
        "images": partial(model_script, "images", images),
        "joint": partial(_shipped_script, "joint", JOINT, bits),
        "toy": partial(_shipped_script, "toy", TOY, bits),
    }


def files_of(scripts: Scripts) -> Files:
    """The page and its models by their paths; models are read when they are asked for."""
    files: dict[str, bytes | Callable[[], bytes]] = {}
    for name, content in page_files().items():
        files[f"/{name}"] = content
    for role, script in scripts.items():
        files[f"/model-{role}.js"] = cache(script)

    return {**files, "/": files["/index.html"]}


def _shipped_script(role: str, name: str, bits: int) -> bytes:
    return model_script(role, page_model(model_file.load(name), name, bits))


def _write(folder: Path, scripts: Scripts) -> Table:
    """The page in a folder."""
    written = [write_whole(folder / "index.html", standalone())]
    for role, script in scripts.items():
        written.append(write_whole(folder / f"model-{role}.js", script()))

    return [f"written: {path}" for path in written]


def _serve(files: Files, port: int, open: bool) -> Table:
    """Answer until the user interrupts."""
    try:
        server = Server(files, port)
    except OSError as error:
        raise OSError(
            f"--port {port} cannot be used ({error.strerror}); name another, or 0 for a free one"
        ) from None

    with server, contextlib.suppress(KeyboardInterrupt):
        print(f"{server.url} shows the page; Ctrl-C ends it", flush=True)
        if open:
            webbrowser.open(server.url)
        server.serve_forever()

    return []
