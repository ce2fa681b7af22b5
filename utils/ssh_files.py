"""Files behind ssh as an fsspec filesystem: known hosts only, the names of ~/.ssh/config, progress."""

import logging
import os
from typing import Any
from urllib.parse import unquote, urlsplit

from utils.errors import UserError


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
