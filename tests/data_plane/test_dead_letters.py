"""The dead-letter file: whole lines whatever dies, a bound, and taking out what was sent again."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from trackside.data_plane import dead_letters
from trackside.data_plane.dead_letters import DeadLetter, DeadLetterFile, DeadLettersFull


def letter(number: int, size: int = 10) -> DeadLetter:
    value = number.to_bytes(4, "big") + b"x" * size
    return DeadLetter(time="t", topic="Car", partition=0, reason="too large", key=b"\xffk", value=value, end=number)


def numbers(file: DeadLetterFile) -> list[int]:
    return [found.letter.end for found in file.letters()]


def test_letters_come_back_with_an_id_of_their_own(tmp_path: Path) -> None:
    file = DeadLetterFile(tmp_path)
    assert list(file.letters()) == []
    file.append([letter(1), letter(2)])
    file.append([letter(3)])
    found = list(file.letters())
    assert [each.letter for each in found] == [letter(1), letter(2), letter(3)]
    assert len({each.id for each in found}) == 3
    assert file.path.stat().st_mode & 0o777 == 0o600


def test_a_line_that_a_crash_cut_short_hides_no_other(tmp_path: Path) -> None:
    file = DeadLetterFile(tmp_path)
    file.append([letter(1), letter(2)])
    os.truncate(file.path, file.path.stat().st_size - 5)
    file.append([letter(3)])
    assert numbers(file) == [1, 3]


def test_a_line_that_is_no_text_hides_no_other(tmp_path: Path) -> None:
    file = DeadLetterFile(tmp_path)
    file.append([letter(1), letter(2), letter(3)])
    lines = file.path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"topic":"', b'"topic":"\xff')
    file.path.write_bytes(b"".join(lines))
    assert numbers(file) == [1, 3]


def test_a_full_file_takes_nothing_more_and_says_what_to_do(tmp_path: Path) -> None:
    file = DeadLetterFile(tmp_path, bytes_max=1000)
    file.append([letter(1, 200)])
    with pytest.raises(DeadLettersFull, match=r"has \d+ of 1000 bytes: send its letters again, or move it away"):
        file.append([letter(2, 200), letter(3, 200)])
    assert numbers(file) == [1]
    file.keep(lambda id_: False)
    file.append([letter(4, 200)])
    assert numbers(file) == [4]


def test_a_disk_that_fills_up_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = DeadLetterFile(tmp_path)
    file.append([letter(1)])

    def cut_short(descriptor: int, data: bytes) -> None:
        os.write(descriptor, data[:20])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(dead_letters, "_write_all", cut_short)
        file.append([letter(2)])
    file.append([letter(3)])
    assert file.path.read_bytes().count(b"\n") == 2
    assert numbers(file) == [1, 3]


def test_nothing_is_lost_that_comes_while_letters_are_taken_out(tmp_path: Path) -> None:
    file = DeadLetterFile(tmp_path)
    file.append([letter(number) for number in range(50)])
    sent = {found.id for found in file.letters()}
    last = 150

    def more() -> None:
        for number in range(50, last):
            DeadLetterFile(tmp_path).append([letter(number)])

    writer = threading.Thread(target=more)
    writer.start()
    while writer.is_alive():
        file.keep(lambda id_: id_ not in sent)
    writer.join()
    assert numbers(file) == list(range(50, last))
