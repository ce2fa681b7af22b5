"""A real ssh server in this process that serves a folder by sftp to one user with a password."""

import contextlib
import os
import socket
import threading

import paramiko

USER, PASSWORD = "ann", "s3cr:t"


class _Server(paramiko.ServerInterface):
    def check_auth_password(self, username, password):
        right = (username, password) == (USER, PASSWORD)
        return paramiko.AUTH_SUCCESSFUL if right else paramiko.AUTH_FAILED

    def get_allowed_auths(self, username):
        return "password"

    def check_channel_request(self, kind, chanid):
        return paramiko.OPEN_SUCCEEDED


class _Handle(paramiko.SFTPHandle):
    def __init__(self, path, flags):
        super().__init__(flags)
        mode = "rb" if not flags & (os.O_WRONLY | os.O_RDWR) else "wb" if flags & os.O_TRUNC else "r+b"
        self.filename, self.readfile = path, open(path, mode)  # noqa: SIM115 - SFTPHandle closes it
        self.writefile = self.readfile

    def stat(self):
        return paramiko.SFTPAttributes.from_stat(os.fstat(self.readfile.fileno()))


class _Folder(paramiko.SFTPServerInterface):
    """SFTP access to the paths of this machine."""

    def stat(self, path):
        return _answer(lambda: paramiko.SFTPAttributes.from_stat(os.stat(path)))

    lstat = stat

    def list_folder(self, path):
        return _answer(
            lambda: [paramiko.SFTPAttributes.from_stat(entry.stat(), entry.name) for entry in os.scandir(path)]
        )

    def open(self, path, flags, attr):
        return _answer(lambda: _Handle(path, flags))

    def remove(self, path):
        return _answer(lambda: os.remove(path))

    def mkdir(self, path, attr):
        return _answer(lambda: os.mkdir(path))

    def posix_rename(self, old, new):
        return _answer(lambda: os.replace(old, new))


def _answer(action):
    try:
        found = action()
    except OSError as error:
        return paramiko.SFTPServer.convert_errno(error.errno)
    return paramiko.SFTP_OK if found is None else found


@contextlib.contextmanager
def sftp_server(home):
    """Run a server and yield its port; the server is added to `home/.ssh/known_hosts`."""
    key = paramiko.RSAKey.generate(2048)
    listening, transports = socket.create_server(("127.0.0.1", 0)), []
    port = listening.getsockname()[1]

    def serve():
        with contextlib.suppress(OSError):  # the socket is closed at the end of the test
            while True:
                transport = paramiko.Transport(listening.accept()[0])
                transports.append(transport)
                transport.add_server_key(key)
                transport.set_subsystem_handler("sftp", paramiko.SFTPServer, _Folder)
                with contextlib.suppress(EOFError, paramiko.SSHException):  # the client does not trust the server
                    transport.start_server(server=_Server())

    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{port} {key.get_name()} {key.get_base64()}\n")
    threading.Thread(target=serve, daemon=True).start()
    try:
        yield port
    finally:
        listening.shutdown(socket.SHUT_RDWR)  # wakes up the thread that waits in accept
        listening.close()
        for transport in transports:
            transport.close()
