"""A folder that may be elsewhere: on this disk, in an object store (s3://, gs://), on a machine behind ssh (ssh://).

Files appear in it whole, and no message shows a password.
"""

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from utils.core.errors import Interrupted, UsageError, UserError
from utils.core.files import whole_file

PACKAGES = {"file": "fsspec", "s3": "s3fs", "gs": "gcsfs", "ssh": "paramiko"}
"""Kind of folder -> the package that reaches it."""
SCHEMES = {"file": "file", "s3": "s3", "gs": "gs", "gcs": "gs", "ssh": "ssh", "sftp": "ssh"}
EXPECTED = "expected a folder, s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or ssh://HOST/FOLDER"
CHUNK = 2**20
NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "DefaultCredentialsError"}
SAID_WITHOUT = ("Anonymous caller", "No authentication methods")
"""What gcsfs and paramiko say of the same, in errors of a general kind."""
DENIED = {"PermissionError", "AuthenticationException", "CredentialRetrievalError", "TokenRetrievalError"}
UNREACHABLE = {"gaierror", "ConnectionError", "TimeoutError", "NoValidConnectionsError", "HTTPClientError"}
UNREACHABLE |= {"EndpointConnectionError", "ConnectionClosedError", "ClientConnectionError", "FSTimeoutError"}
"""Names of the errors of botocore, google-auth, aiohttp, paramiko and Python, with their parents' names."""
Seen = Callable[[int], object]
"""Told how many bytes of a file have moved so far."""


@dataclass(frozen=True)
class RemoteFolder:
    """An opened folder; the names of its files are relative to it, with `/` between."""

    shown: str
    """Its URL without a password, for messages."""
    kind: str
    """file, s3, gs or ssh."""
    files: Any
    """The fsspec filesystem that it is in."""
    path: str
    """Where in that."""

    def size(self, name: str) -> int | None:
        """Bytes of a file; None if it is not there."""
        with _told(self.shown):
            try:
                found = self.files.info(self._path(name))
            except (FileNotFoundError, NotADirectoryError) as error:
                if "bucket" in str(error):
                    raise
                return None
            return found["size"] if found["type"] == "file" else None

    def is_empty(self) -> bool:
        """Whether nothing is in the folder, or there is none."""
        with _told(self.shown):
            try:
                return not self.files.ls(self.path, detail=False)
            except FileNotFoundError as error:
                if "bucket" in str(error):
                    raise
                return True

    def read(self, name: str) -> bytes:
        """All of a small file."""
        with _told(self.shown):
            return self.files.cat_file(self._path(name))

    def sha256(self, name: str, seen: Seen) -> str:
        """The checksum of a file, read as it is there."""
        digest, done = hashlib.sha256(), 0
        with _told(self.shown), self.files.open(self._path(name), "rb") as file:
            if hasattr(file, "prefetch"):  # over ssh: otherwise each 32 kB wait for an answer
                file.prefetch(self.files.info(self._path(name))["size"])
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                seen(done := done + len(chunk))
        return digest.hexdigest()

    def fetch(self, name: str, target: Path, seen: Seen) -> None:
        """Copy a file from here to `target`, which may be seen half-written."""
        with _told(self.shown):
            self.files.get_file(self._path(name), str(target), callback=_callback(seen))

    def send(self, source: Path, name: str, seen: Seen) -> None:
        """Copy a file to here, whole or not at all; one of that name is replaced."""
        if self.kind == "file":
            with whole_file(self._path(name)) as part:
                shutil.copyfile(source, part)
            return
        with _told(self.shown):
            if self.kind == "ssh":
                self._send_and_rename(source, name, seen)
                return
            try:  # an object is there when all of it is
                self.files.put_file(str(source), self._path(name), callback=_callback(seen))
            except (KeyboardInterrupt, Interrupted):
                if self.kind == "s3":
                    with suppress(Exception):  # the interruption is told, not this
                        self._drop_parts(self._path(name))
                raise

    def _send_and_rename(self, source: Path, name: str, seen: Seen) -> None:
        path = self._path(name)
        folder, _, last = path.rpartition("/")
        part = f"{folder}/.{last}.part"
        try:
            self.files.put_file(str(source), part, callback=_callback(seen))
            self.files.mv(part, path)
        except BaseException:
            with suppress(Exception):  # what ended the copy is told, not this
                self.files.rm_file(part)
            raise

    def _drop_parts(self, path: str) -> None:
        """Remove the parts of a large object that never came to be: nobody sees them, but they are paid for."""
        bucket, _, key = path.partition("/")
        for upload in self.files.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=key).get("Uploads", []):
            if upload["Key"] == key:
                self.files.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload["UploadId"])

    def _path(self, name: str) -> str:
        return f"{self.path}/{name}"


@contextmanager
def remote_folder(url: str) -> Iterator[RemoteFolder]:
    """Open the folder that a URL names; it need not be there yet.

    Args:
        url: a folder, `s3://BUCKET/FOLDER`, `gs://BUCKET/FOLDER`, `ssh://[USER@]HOST[:PORT]/FOLDER` (`/~/FOLDER`: below
            the home folder). Credentials are those that the usual clients take: AWS' environment variables, files and
            `AWS_ENDPOINT_URL`; Google's application default credentials; ssh's agent, keys and `~/.ssh/config`.

    Raises:
        UsageError: another kind of URL.
        UserError: the package for it is missing, or the place cannot be reached or entered.
    """
    kind, shown = _kind_of(url), without_password(url)
    try:
        files, path = _opened(kind, url, shown)
    except ImportError as error:
        raise UserError(f"{shown}: needs {error.name or PACKAGES[kind]}; pip install -e '.[share]'") from None
    try:
        yield RemoteFolder(shown, kind, files, path)
    finally:
        if kind == "ssh":
            files.client.close()


def without_password(url: str) -> str:
    """A URL as it may be shown."""
    return re.sub(r"(://[^/@:]*):.*@", r"\1:***@", url)


def _kind_of(url: str) -> str:
    """file, s3, gs or ssh; raises a UsageError for anything else that looks like a URL."""
    shown = without_password(url)
    scheme, mark, rest = url.partition("://")
    if not mark:
        if not url or re.match(r"[\w.@-]+:", url):  # s3:bucket, host:folder
            raise UsageError(f"{shown or 'URL'}: {EXPECTED}")
        return "file"
    kind = SCHEMES.get(scheme)
    first, _, folder = rest.partition("/")
    named = {"file": rest.strip("/"), "ssh": first and folder.strip("/~")}.get(kind, first)
    if kind is None or not named:
        raise UsageError(f"{shown}: {EXPECTED}")
    if kind == "ssh" and not re.fullmatch(r"([^@/]*@)?(\[[^@/]+\]|[^@/:]+)(:\d+)?", first):
        raise UsageError(f"{shown}: {EXPECTED}; in a password, %2F, %40 and %23 stand for /, @ and #")
    if kind in ("s3", "gs") and "@" in first:
        raise UsageError(f"{shown}: no key or password belongs in it; {kind} takes the credentials of its usual client")
    return kind


def _opened(kind: str, url: str, shown: str) -> tuple[Any, str]:
    """The filesystem, and the path in it."""
    import fsspec

    if kind == "file":
        return fsspec.filesystem("file"), str(Path(url.removeprefix("file://")))
    with _told(shown):
        if kind == "ssh":
            return open_ssh(url)
        options = {"skip_instance_cache": True}  # the environment may name another place by now
        if kind == "s3":
            import s3fs

            files = s3fs.S3FileSystem(config_kwargs={"connect_timeout": 10}, **options)
        else:
            # the one of gcsfs itself first asks, by another protocol and for a minute, what kind of bucket it is
            from gcsfs.core import GCSFileSystem

            logging.getLogger("gcsfs").addHandler(logging.NullHandler())  # it would print what it raises, and more
            files = GCSFileSystem(**options)
        return files, url.partition("://")[2].rstrip("/")


def _callback(seen: Seen) -> Any:
    from fsspec.callbacks import Callback

    return Callback(hooks={"seen": lambda size, value, **_: seen(value)})


@contextmanager
def _told(shown: str) -> Iterator[None]:
    """Turn what a client raises into one line without a secret; errors of this machine's own files pass."""
    try:
        yield
    except (UserError, ImportError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename:
            raise
        raise UserError(f"{shown}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    if kinds & NO_CREDENTIALS or any(words in said for words in SAID_WITHOUT):
        return f"no credentials ({said}); set them up as for the usual client of this service"
    if kinds & DENIED:
        return f"access denied ({said}); check the credentials, and what they allow"
    if kinds & UNREACHABLE:
        return f"cannot be reached ({said}); check the address and the network"
    if "FileNotFoundError" in kinds:
        return f"is not there ({said}); check the name; a bucket has to be made first"
    return f"{type(error).__name__}: {said}"


def open_ssh(url: str) -> tuple[Any, str]:
    """The filesystem of `ssh://[USER[:PASSWORD]@]HOST[:PORT]/FOLDER`, and the folder's path in it.

    Raises:
        UserError: the host is not in ~/.ssh/known_hosts, or has another key than there.
        ImportError: paramiko is missing.
        Exception: whatever paramiko raises when it cannot connect.
    """
    import paramiko
    from fsspec.callbacks import DEFAULT_CALLBACK, Callback
    from fsspec.implementations.sftp import SFTPFileSystem

    class KnownHosts(SFTPFileSystem):
        """fsspec's own trusts any host, and does not tell how far a copy is."""

        def _connect(self) -> None:
            self.client = paramiko.SSHClient()
            self.client.load_system_host_keys()
            self.client.set_missing_host_key_policy(paramiko.RejectPolicy())
            self.client.connect(self.host, **self.ssh_kwargs)
            self.ftp = self.client.open_sftp()

        def put_file(self, lpath: str, rpath: str, callback: Callback = DEFAULT_CALLBACK, **_: Any) -> None:
            self.makedirs(self._parent(rpath), exist_ok=True)
            self.ftp.put(lpath, rpath, callback=lambda done, _size: callback.absolute_update(done))

        def get_file(self, rpath: str, lpath: str, callback: Callback = DEFAULT_CALLBACK, **_: Any) -> None:
            self.ftp.get(rpath, lpath, callback=lambda done, _size: callback.absolute_update(done))

    logging.getLogger("paramiko").addHandler(logging.NullHandler())  # it would print the tracebacks of what it raises
    parts = urlsplit(url)
    options = _options(paramiko, parts.hostname or "")
    given = {"username": parts.username, "password": parts.password, "port": parts.port}
    options |= {name: unquote(value) if isinstance(value, str) else value for name, value in given.items() if value}
    host = options.pop("hostname")
    name = parts.hostname
    try:
        files = KnownHosts(host, timeout=15, skip_instance_cache=True, **options)
    except paramiko.BadHostKeyException:
        raise UserError(
            f"{name}: has another key than in ~/.ssh/known_hosts: it was set up anew, or another machine "
            "answers in its place; ask whoever runs it"
        ) from None
    except paramiko.SSHException as error:
        if "known_hosts" not in str(error):
            raise
        raise UserError(
            f"{name}: is not in ~/.ssh/known_hosts; `ssh {name}` once (with -p where it has a port of its own), "
            "compare its key, and try again"
        ) from None
    return files, unquote(parts.path).removeprefix("/~/").rstrip("/")


def _options(paramiko: Any, host: str) -> dict[str, Any]:
    """What ~/.ssh/config says of a host: its name or address, and where given port, user and keys."""
    path = os.path.expanduser("~/.ssh/config")
    found = paramiko.SSHConfig.from_path(path).lookup(host) if os.path.isfile(path) else {}
    options = {"hostname": found.get("hostname", host)}
    names = {"port": ("port", int), "user": ("username", str), "identityfile": ("key_filename", list)}
    return options | {ours: kind(found[theirs]) for theirs, (ours, kind) in names.items() if theirs in found}
