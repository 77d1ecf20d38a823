"""With this folder on PYTHONPATH, Python and its children reach this machine alone, as if the network were cut."""

import ipaddress
import socket
from typing import Any

_connect, _connect_ex, _getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo


def _is_here(host: Any) -> bool:
    if host in (None, "", "localhost", b"localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(host.decode() if isinstance(host, bytes) else host).is_loopback
    except ValueError:
        return False


def _check(sock: socket.socket, address: Any) -> None:
    if sock.family in (socket.AF_INET, socket.AF_INET6) and not _is_here(address[0]):
        raise OSError(f"the network is cut in this test: {address[0]!r} was asked for")


class _Socket(socket.socket):
    def connect(self, address: Any) -> None:
        _check(self, address)
        _connect(self, address)

    def connect_ex(self, address: Any) -> int:
        _check(self, address)
        return _connect_ex(self, address)


def _resolve(host: Any, *args: Any, **kwargs: Any) -> Any:
    if not _is_here(host):
        raise OSError(f"the network is cut in this test: {host!r} was asked for")
    return _getaddrinfo(host, *args, **kwargs)


socket.socket = _Socket  # type: ignore[misc]
socket.getaddrinfo = _resolve
