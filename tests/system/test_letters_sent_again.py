"""Dead letters of the file go back into the local log, through a server that checks them as its door would."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

from server import Server

from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.data_plane.dead_letters import DeadLetter, DeadLetterFile


def test_letters_go_back_into_the_local_log(make_server: Callable[..., Server]) -> None:
    server = make_server("2/2/2").start()

    def letter(number: int, **fields: object) -> DeadLetter:
        common = {"time": "t", "topic": "Car.s", "partition": 0, "reason": "test", "key": b"", "end": number}
        packet = Packet(id=number, content=bytes(100_000)).SerializeToString()
        return DeadLetter(**{**common, "value": packet, **fields})  # type: ignore[arg-type]

    file = DeadLetterFile(server.data_dir / "dead-letters")
    file.append([letter(number) for number in range(20)])
    file.append([letter(20, essentials="Car_essential"), letter(21, topic="../x"), letter(22, partition=7)])
    done = send_again(server)
    assert done.returncode == 1, done.stderr
    assert [line.partition("  ")[2] for line in done.stdout.splitlines()[:-1]] == [
        "not sent: packets[0].topic: '../x' is not allowed, wanted 1 to 249 of A-Z a-z 0-9 . _ -",
        "not sent: packets[0].partition: 7 is not allowed, wanted one of Car.s's 1, as configured",
    ]
    assert done.stdout.splitlines()[-1] == "21 sent again; 0 refused again; 2 not sent"
    client = server.client()
    connection = client.connect("Car", streams=["s"], exclude_main_stream=True)
    assert [response.packet.id for response in client.read(connection, 21)] == list(range(21))
    assert [found.letter.end for found in file.letters()] == [21, 22]
    assert (server.data_dir / "log" / "Car_essential").is_dir()
    client.close()


def send_again(server: Server) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-P", "-m", "trackside.control_plane", "dead-letters", *server.arguments, "--resend"]
    return subprocess.run(program, env=dict(os.environ), capture_output=True, text=True, timeout=120, check=False)
