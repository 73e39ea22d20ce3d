"""A web server in a thread, for tests of downloads: whole, slow, cut off, without ranges, over TLS."""

import hashlib
import io
import shutil
import ssl
import subprocess
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CHUNK = 1 << 14


class Handler(BaseHTTPRequestHandler):
    server: "Server"

    def do_GET(self) -> None:
        shop, wanted = self.server, self.headers["Range"]
        if shop.redirect:
            self.send_response(302)
            self.send_header("Location", shop.redirect)
            return self.end_headers()
        content = shop.files[self.path.rpartition("/")[2]]
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and shop.ranges else 0
        shop.asked.append(start)
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if shop.tells_length:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content) if shop.cut is None else shop.cut
        for i in range(start, end, CHUNK):
            try:
                shop.sent += self.wfile.write(content[i : min(i + CHUNK, end)])
            except OSError:  # the client died
                return None
            time.sleep(shop.pause)
        return None

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Serves `files` by name until the block ends; `asked` and `sent` tell from where, and how many bytes."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes], certificate: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.asked, self.sent = files, list[int](), 0
        self.redirect, self.pause, self.cut = "", 0.0, None
        self.ranges = self.tells_length = True
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self.server_port}"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)

    def __enter__(self) -> "Server":
        threading.Thread(target=self.serve_forever, args=(0.01,)).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


def certificate(folder: Path) -> Path:
    """Make a certificate of 127.0.0.1, signed by itself, with its key."""
    file, openssl = folder / "certificate.pem", shutil.which("openssl")
    assert openssl, "these tests need the command openssl"
    options = "-x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1"
    options += " -addext subjectAltName=IP:127.0.0.1"
    command = [openssl, "req", *options.split(), "-keyout", str(file), "-out", str(folder / "public.pem")]
    subprocess.run(command, check=True, capture_output=True)
    file.write_bytes(file.read_bytes() + (folder / "public.pem").read_bytes())
    return file


def tar_of(files: dict[str, bytes]) -> bytes:
    """Content of a .tar.gz with these files; it is not compressed, so that its size is theirs."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=0) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def rows_of(url: str, files: dict[str, tuple[str, str, bytes]], **changes: object) -> list[dict[str, object]]:
    """Rows of a catalogue: file name -> (data set, place, content)."""
    return [
        {
            "dataset": dataset, "file": name, "url": f"{url}/{name}", "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(), "place": place, "instead": "", "licence": "free",
            "checksum_source": "this test", "note": "", **changes,
        }
        for name, (dataset, place, content) in files.items()
    ]  # fmt: skip
