"""`gendae demo`."""

import contextlib
import webbrowser
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


def demo(
    model: str = "mnist-targetprop-parzen",
    *,
    port: int = 8410,
    out: str = "",
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
    checks.one_of("--bits", bits, BITS)
    images = page_model(load_generative(model), Path(model).stem, bits)
    if images["kind"] != "image":
        raise ValueError(f"{model} is a model of {images['kind']}; the page draws images")

    scripts: dict[str, partial[bytes]] = {
        "images": partial(model_script, "images", images),
        "joint": partial(_shipped_script, "joint", JOINT, bits),
        "toy": partial(_shipped_script, "toy", TOY, bits),
    }
    if out:
        return _write(Path(out), scripts)

    files: dict[str, bytes] = {f"/{name}": content for name, content in page_files().items()}
    files["/"] = files["/index.html"]
    later = {f"/model-{role}.js": cache(script) for role, script in scripts.items()}
    return _serve({**files, **later}, port, open)


def _shipped_script(role: str, name: str, bits: int) -> bytes:
    return model_script(role, page_model(model_file.load(name), name, bits))


def _write(folder: Path, scripts: dict[str, partial[bytes]]) -> Table:
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
