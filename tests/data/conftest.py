"""Small files of MNIST's format, and a web server that cuts, lies or knows no ranges when told to."""

import gzip
import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from data.idx_files import idx_bytes
from halrp_np.data import mnist


@pytest.fixture
def small_mnist(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Twelve training and five test images, by file name."""
    arrays = {}
    for part, count in [("train", 12), ("t10k", 5)]:
        arrays[f"{part}-images-idx3-ubyte"] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{part}-labels-idx1-ubyte"] = rng.integers(0, 10, count, dtype=np.uint8)
    return arrays


Writer = Callable[..., Path]


@pytest.fixture
def write_mnist(tmp_path: Path) -> Writer:
    """A function that writes files of MNIST's names below a fresh folder and returns that folder."""

    def write(arrays: dict[str, np.ndarray], layout: str = "MNIST/raw", packed: bool = True) -> Path:
        folder = tmp_path / "user" / layout
        folder.mkdir(parents=True)
        for name, array in arrays.items():
            content = idx_bytes(array)
            (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)
        return tmp_path / "user"

    return write


@dataclass
class Mirror:
    """A running mirror: what it serves, how it misbehaves, and what was asked of it."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    wrong_range: bool = False
    says_length: bool = True
    cut_after: int | None = None  # bytes of the next answer, once
    delay: float = 0.0
    requests: list[tuple[str, str | None]] = field(default_factory=list)


def _handler(mirror: Mirror) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            mirror.requests.append((self.path[1:], wanted))
            threading.Event().wait(mirror.delay)
            content = mirror.files.get(self.path[1:])
            start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted and mirror.ranges else 0
            if content is None or start >= len(content):
                self.send_error(404 if content is None else 416)
                return
            self.send_response(206 if wanted and mirror.ranges else 200)
            if wanted and mirror.ranges:
                first = 0 if mirror.wrong_range else start
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            body = content[start:]
            if mirror.says_length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if mirror.cut_after is not None:
                body, mirror.cut_after = body[: mirror.cut_after], None
            self.wfile.write(body)  # then the connection is closed, after a cut too

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    return Handler


@pytest.fixture
def start_mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Mirror]]:
    """A function that starts a mirror with the files given."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    servers = []

    def start(files: dict[str, bytes]) -> Mirror:
        mirror = Mirror(files=dict(files))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(mirror))
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        mirror.url = f"http://127.0.0.1:{server.server_address[1]}/"
        servers.append(server)
        return mirror

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def dead_mirror(monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a mirror that refuses every connection."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of this test's own."""
    monkeypatch.setenv("HALRP_NP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def offline(cache: Path, dead_mirror: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache and no mirror that answers."""
    monkeypatch.setattr(mnist, "MNIST", replace(mnist.MNIST, mirrors=(dead_mirror, dead_mirror + "second/")))
