"""systemd's side of sd_notify is a datagram socket; so is the test's."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from trackside.control_plane.notify import Notifier


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield receiver


def test_every_message_is_one_datagram(manager: socket.socket) -> None:
    notifier = Notifier()
    notifier.ready("serving 13579")
    notifier.status("two\nlines")
    notifier.watchdog()
    notifier.stopping("draining")
    assert [manager.recv(4096) for _ in range(4)] == [
        b"READY=1\nSTATUS=serving 13579",
        b"STATUS=two lines",
        b"WATCHDOG=1",
        b"STOPPING=1\nSTATUS=draining",
    ]


def test_an_abstract_socket_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"trackside-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("\0" + name)
        receiver.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        Notifier().watchdog()
        assert receiver.recv(64) == b"WATCHDOG=1"


@pytest.mark.usefixtures("manager")
def test_children_do_not_inherit_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "15000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert Notifier().watchdog_seconds == 15.0
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(os.environ)


@pytest.mark.parametrize(("microseconds", "pid"), [("", ""), ("soon", ""), ("1000000", "1")])
def test_a_watchdog_of_somebody_else_is_none(monkeypatch: pytest.MonkeyPatch, microseconds: str, pid: str) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", microseconds)
    monkeypatch.setenv("WATCHDOG_PID", pid)
    assert Notifier().watchdog_seconds == 0.0


def test_nobody_listening_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    Notifier().ready("no systemd")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    Notifier().ready("systemd has gone")
