"""The page on this machine's own address, for its own browser alone."""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from gendae.errors import reason

HOST = "127.0.0.1"
DEFAULT_PORT = 80
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self' 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

#: Contents by path; a function makes those that take a while when they are asked for.
Files = Mapping[str, bytes | Callable[[], bytes]]


class Server(ThreadingHTTPServer):
    """Serves named contents, and nothing else, to pages of its own origin.

    Nothing is looked up on the disk, so that no path leads out; a name that another site gives
    this address (DNS rebinding) is not this server's, and pages of other origins get nothing.

    Args:
        files: contents by path, such as "/" or "/style.css".
        port: 0 for any that is free.

    Raises:
        OSError: if the port is taken.

    Example:
        >>> with Server({"/": b"hello"}) as server:
        ...     server.url.startswith("http://127.0.0.1:")
        True
    """

    daemon_threads = True

    def __init__(self, files: Files, port: int = 0) -> None:
        self.files = files
        super().__init__((HOST, port), Handler)

    @property
    def origins(self) -> list[str]:
        """The addresses of this server, as a browser names them."""
        port = self.server_address[1]
        suffix = "" if port == DEFAULT_PORT else f":{port}"  # browsers leave the usual one out
        return [f"http://{HOST}{suffix}", f"http://localhost{suffix}"]

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"{self.origins[0]}/"


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD."""

    server: Server
    protocol_version = "HTTP/1.1"
    #: Seconds after which a silent connection is closed.
    timeout = 30

    def do_GET(self) -> None:
        refused = self._refusal()
        if refused is not None:
            self.close_connection = True
            self.send_error(refused)
            return

        path = urlsplit(self.path).path
        content = self.server.files.get(path)
        if content is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return

        if callable(content):
            try:
                content = content()
            except (ValueError, OSError) as error:
                self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, explain=reason(error))
                return
        self._send(path, content)

    do_HEAD = do_GET

    def _refusal(self) -> HTTPStatus | None:
        """Why a request is not answered; None if it is."""
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE  # nothing here takes a body

        if f"http://{self.headers.get('Host')}" not in self.server.origins:
            return HTTPStatus.FORBIDDEN

        origin = self.headers.get("Origin")
        if origin is not None and origin not in self.server.origins:
            return HTTPStatus.FORBIDDEN

        is_page = self.headers.get("Sec-Fetch-Mode") == "navigate"
        foreign = self.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site")
        if foreign and not is_page:
            return HTTPStatus.FORBIDDEN

        return None

    def _send(self, path: str, content: bytes) -> None:
        suffix = "." + path.rpartition(".")[2]
        kind = TYPES.get(suffix, TYPES[".html"])

        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()

        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the terminal is the user's."""
