"""A folder on this disk, in an object store (s3://, gs://) or on a machine that ssh reaches (ssh://).

A file appears in the folder when it is complete, and no message shows a password.
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
from utils.core.files import atomic_file

PACKAGES = {"file": "fsspec", "s3": "s3fs", "gs": "gcsfs", "ssh": "paramiko"}
"""Kind of folder -> the package that accesses it."""
SCHEMES = {"file": "file", "s3": "s3", "gs": "gs", "gcs": "gs", "ssh": "ssh", "sftp": "ssh"}
EXPECTED = "expected a folder, s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or ssh://HOST/FOLDER"
CHUNK = 2**20
NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "DefaultCredentialsError"}
NO_CREDENTIALS_TEXTS = ("Anonymous caller", "No authentication methods")
"""Texts of missing credentials in errors of gcsfs and paramiko whose class is too general to tell."""
DENIED = {"PermissionError", "AuthenticationException", "CredentialRetrievalError", "TokenRetrievalError"}
UNREACHABLE = {"gaierror", "ConnectionError", "TimeoutError", "NoValidConnectionsError", "HTTPClientError"}
UNREACHABLE |= {"EndpointConnectionError", "ConnectionClosedError", "ClientConnectionError", "FSTimeoutError"}
"""Names of error classes of botocore, google-auth, aiohttp, paramiko and Python; base classes match too."""
Seen = Callable[[int], object]
"""Callback that gets the number of bytes of a file transferred so far."""


@dataclass(frozen=True)
class RemoteFolder:
    """An opened folder; the names of its files are relative to it, separated by `/`."""

    shown: str
    """Its URL without a password, for messages."""
    kind: str
    """file, s3, gs or ssh."""
    files: Any
    """The fsspec filesystem that contains the folder."""
    path: str
    """Path of the folder in the filesystem."""

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes, or None if the file does not exist."""
        with _errors_of(self.shown):
            try:
                found = self.files.info(self._path(name))
            except (FileNotFoundError, NotADirectoryError) as error:
                if "bucket" in str(error):
                    raise
                return None
            return found["size"] if found["type"] == "file" else None

    def is_empty(self) -> bool:
        """Return whether the folder is empty or does not exist."""
        with _errors_of(self.shown):
            try:
                return not self.files.ls(self.path, detail=False)
            except FileNotFoundError as error:
                if "bucket" in str(error):
                    raise
                return True

    def read(self, name: str) -> bytes:
        """Return the content of a small file."""
        with _errors_of(self.shown):
            return self.files.cat_file(self._path(name))

    def sha256(self, name: str, seen: Seen) -> str:
        """Return the SHA-256 checksum of a file in hexadecimal digits; the file is read to the end."""
        digest, done = hashlib.sha256(), 0
        with _errors_of(self.shown), self.files.open(self._path(name), "rb") as file:
            if hasattr(file, "prefetch"):  # ssh: without it every 32 kB wait for a reply
                file.prefetch(self.files.info(self._path(name))["size"])
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                seen(done := done + len(chunk))
        return digest.hexdigest()

    def fetch(self, name: str, target: Path, seen: Seen) -> None:
        """Copy a file from this folder to the local path `target`, which is incomplete during the copy."""
        with _errors_of(self.shown):
            self.files.get_file(self._path(name), str(target), callback=_callback(seen))

    def send(self, source: Path, name: str, seen: Seen) -> None:
        """Copy a local file to this folder; it appears when it is complete and replaces a file of the same name."""
        if self.kind == "file":
            with atomic_file(self._path(name)) as part:
                shutil.copyfile(source, part)
            return
        with _errors_of(self.shown):
            if self.kind == "ssh":
                self._send_and_rename(source, name, seen)
                return
            try:  # an object appears when its upload is complete
                self.files.put_file(str(source), self._path(name), callback=_callback(seen))
            except (KeyboardInterrupt, Interrupted):
                if self.kind == "s3":
                    with suppress(Exception):  # report the interruption, not a failed cleanup
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
            with suppress(Exception):  # report what ended the copy, not a failed cleanup
                self.files.rm_file(part)
            raise

    def _drop_parts(self, path: str) -> None:
        """Abort the unfinished uploads of a large object, whose parts are invisible but cost storage."""
        bucket, _, key = path.partition("/")
        for upload in self.files.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=key).get("Uploads", []):
            if upload["Key"] == key:
                self.files.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload["UploadId"])

    def _path(self, name: str) -> str:
        return f"{self.path}/{name}"


@contextmanager
def remote_folder(url: str) -> Iterator[RemoteFolder]:
    """Open the folder that a URL names; it need not exist yet.

    Args:
        url: a folder, `s3://BUCKET/FOLDER`, `gs://BUCKET/FOLDER`, `ssh://[USER@]HOST[:PORT]/FOLDER` (`/~/FOLDER`: in
            the home folder). Credentials are taken from where the usual clients take them: AWS environment variables
            (also `AWS_ENDPOINT_URL`) and files; Google's application default credentials; ssh's agent, keys and
            `~/.ssh/config`.

    Raises:
        UsageError: the URL has another form.
        UserError: the package for this kind of URL is not installed, or the server cannot be reached or denies
            access.
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
    """Return a URL with its password replaced by ***."""
    return re.sub(r"(://[^/@:]*):.*@", r"\1:***@", url)


def _kind_of(url: str) -> str:
    """Return file, s3, gs or ssh; raise UsageError if `url` looks like another kind of URL."""
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
        raise UsageError(f"{shown}: {EXPECTED}; in a password, write /, @ and # as %2F, %40 and %23")
    if kind in ("s3", "gs") and "@" in first:
        raise UsageError(f"{shown}: leave out the key or password; {kind} takes the credentials of its usual client")
    return kind


def _opened(kind: str, url: str, shown: str) -> tuple[Any, str]:
    """Return the filesystem and the path in it."""
    import fsspec

    if kind == "file":
        return fsspec.filesystem("file"), str(Path(url.removeprefix("file://")))
    with _errors_of(shown):
        if kind == "ssh":
            return open_ssh(url)
        options = {"skip_instance_cache": True}  # the environment may have changed since
        if kind == "s3":
            import s3fs

            files = s3fs.S3FileSystem(config_kwargs={"connect_timeout": 10}, **options)
        else:
            # gcsfs.GCSFileSystem first asks for the type of the bucket by another protocol, for up to a minute
            from gcsfs.core import GCSFileSystem

            logging.getLogger("gcsfs").addHandler(logging.NullHandler())  # otherwise its errors are printed too
            files = GCSFileSystem(**options)
        return files, url.partition("://")[2].rstrip("/")


def _callback(seen: Seen) -> Any:
    from fsspec.callbacks import Callback

    return Callback(hooks={"seen": lambda size, value, **_: seen(value)})


@contextmanager
def _errors_of(shown: str) -> Iterator[None]:
    """Raise UserError, one line without secrets, for an error of a client; errors of local files pass unchanged."""
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
    message = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    if kinds & NO_CREDENTIALS or any(words in message for words in NO_CREDENTIALS_TEXTS):
        return f"no credentials found ({message}); set them up as for the usual client of this service"
    if kinds & DENIED:
        return f"access denied ({message}); check the credentials and their permissions"
    if kinds & UNREACHABLE:
        return f"cannot be reached ({message}); check the address and the network"
    if "FileNotFoundError" in kinds:
        return f"not found ({message}); check the name; a bucket must be created first"
    return f"{type(error).__name__}: {message}"


def open_ssh(url: str) -> tuple[Any, str]:
    """Return the filesystem of `ssh://[USER[:PASSWORD]@]HOST[:PORT]/FOLDER` and the folder's path in it.

    Raises:
        UserError: the host is not in ~/.ssh/known_hosts, or its key differs from the one there.
        ImportError: paramiko is not installed.
        Exception: any error that paramiko raises when it cannot connect.
    """
    import paramiko
    from fsspec.callbacks import DEFAULT_CALLBACK, Callback
    from fsspec.implementations.sftp import SFTPFileSystem

    class KnownHosts(SFTPFileSystem):
        """Like fsspec's SFTPFileSystem, but checks the host's key and reports the progress of a copy."""

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

    logging.getLogger("paramiko").addHandler(logging.NullHandler())  # otherwise its tracebacks are printed too
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
            f"{name}: its key differs from the one in ~/.ssh/known_hosts; the host was reinstalled, or another machine "
            "answers in its place; ask the administrator"
        ) from None
    except paramiko.SSHException as error:
        if "known_hosts" not in str(error):
            raise
        raise UserError(
            f"{name}: not in ~/.ssh/known_hosts; run `ssh {name}` once (with -p PORT if the URL has a port), "
            "compare its key, and try again"
        ) from None
    return files, unquote(parts.path).removeprefix("/~/").rstrip("/")


def _options(paramiko: Any, host: str) -> dict[str, Any]:
    """Return what ~/.ssh/config holds for a host: its name or address and, if given, port, user and keys."""
    path = os.path.expanduser("~/.ssh/config")
    found = paramiko.SSHConfig.from_path(path).lookup(host) if os.path.isfile(path) else {}
    options = {"hostname": found.get("hostname", host)}
    names = {"port": ("port", int), "user": ("username", str), "identityfile": ("key_filename", list)}
    return options | {ours: kind(found[theirs]) for theirs, (ours, kind) in names.items() if theirs in found}
