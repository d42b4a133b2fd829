"""Recorded drives: every channel at its rate, and one clear line for a file that is no whole recording."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
from ibt_files import ibt_bytes, ticks_of, write_ibt

from trackside.bench.ibt import BrokenRecording, Recording

REAL = Path(os.environ.get("TRACKSIDE_IBT") or Path(__file__).parents[3] / "shared" / "data" / "amg.ibt")


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    return Recording(write_ibt(tmp_path / "drive.ibt", ibt_bytes(120)))


def values(recording: Recording, name: str, start: float = 0.0, seconds: float = 2.0) -> np.ndarray:
    block = recording.block(start, seconds)
    for group, samples in zip(recording.groups, block.samples, strict=True):
        if name in group.identifiers:
            return samples.values[group.identifiers.index(name)]
    raise KeyError(name)


def test_channels_have_their_values(recording: Recording) -> None:
    ticks = ticks_of(120)
    for name in ("SessionTime", "Speed", "Gear", "OnPitRoad"):
        assert np.array_equal(values(recording, f"{name}:iRacing"), ticks[name][:, 0].astype(float))
    assert np.array_equal(values(recording, "Corners[2]:iRacing"), ticks["Corners"][:, 2].astype(float))


def test_an_array_of_moments_is_a_faster_channel(recording: Recording) -> None:
    assert [group.rate_hz for group in recording.groups] == [60, 360]
    assert np.array_equal(values(recording, "Torque_ST:iRacing"), np.arange(720.0))


def test_texts_are_left_out_and_codes_have_no_unit(recording: Recording) -> None:
    by_name = {parameter.name: parameter for group in recording.groups for parameter in group.parameters}
    assert "Driver" not in by_name
    assert by_name["TrackSurface"].units == "" and "irsdk_TrkLoc" in by_name["TrackSurface"].description
    assert (by_name["Speed"].minimum, by_name["Speed"].maximum, by_name["Speed"].units) == (0.0, 59.5, "m/s")
    assert by_name["TrackSurface"].maximum > by_name["TrackSurface"].minimum  # a constant still has a range


def test_blocks_join_although_60_hz_is_no_whole_number_of_nanoseconds(recording: Recording) -> None:
    assert recording.groups[0].interval_ns is None
    blocks = [recording.block(index * 0.01, 0.01) for index in range(200)]
    times = np.concatenate([block.samples[0].times_ns for block in blocks])
    assert len(times) == 120 and np.array_equal(times, np.arange(120) * 1_000_000_000 // 60)
    assert np.array_equal(
        np.concatenate([block.samples[0].values for block in blocks], axis=1), recording.block(0, 2).samples[0].values
    )


def test_it_begins_again_at_its_end(recording: Recording) -> None:
    assert recording.seconds == 2.0
    assert np.array_equal(values(recording, "Speed:iRacing", 1.5, 1.0), np.array([*range(90, 120), *range(30)]) * 0.5)


def test_laps(recording: Recording) -> None:
    laps = recording.block(0, 2.9).laps
    assert [(lap.number, lap.time_ns) for lap in laps] == [
        (1, 0), (2, 50 * 10**9 // 60), (3, 100 * 10**9 // 60), (1, 2 * 10**9), (2, 170 * 10**9 // 60),
    ]  # fmt: skip
    assert math.isnan(laps[0].last_lap_seconds) and laps[1].last_lap_seconds == pytest.approx(50 / 60)


def test_a_simulator_that_crashed_never_wrote_the_number_of_ticks(tmp_path: Path) -> None:
    assert Recording(write_ibt(tmp_path / "drive.ibt", ibt_bytes(30, promised=0))).seconds == 0.5


WHOLE = ibt_bytes(20)
BROKEN = {
    "empty": (b"", "it is empty"),
    "something else": (b"\x89PNG" * 100, "version"),
    "headers cut": (WHOLE[:100], "100 bytes"),
    "ticks cut": (WHOLE[:-1], "20 ticks are promised, 19 are there"),
    "no ticks": (WHOLE[:1440], "20 ticks are promised, 0 are there"),
    "tick rate": (ibt_bytes(20, tick_hz=0), "tick rate is 0"),
    "variables": (ibt_bytes(20, variables=-4), "number of variables is -4"),
    "too many variables": (ibt_bytes(20, variables=90), "offset of the variables"),
    "tick too small": (ibt_bytes(20, tick_bytes=8), "of variable Speed"),
    "start beyond the end": (ibt_bytes(20, start=10**6), "offset of the ticks is 1000000"),
    "table moved": (ibt_bytes(20, table=150), "variable"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    data, reason = BROKEN[name]
    path = write_ibt(tmp_path / "broken.ibt", data)
    with pytest.raises(BrokenRecording) as refused:
        Recording(path)
    message = str(refused.value)
    assert str(path) in message and reason in message and "\n" not in message


def test_no_cut_and_no_flipped_byte_of_the_headers_is_met_with_another_error(tmp_path: Path) -> None:
    random = np.random.default_rng(11)
    path = tmp_path / "damaged.ibt"
    refused = 0
    for _ in range(300):
        data = bytearray(WHOLE[: int(random.integers(1, len(WHOLE) + 1))] if random.random() < 0.3 else WHOLE)
        data[int(random.integers(min(len(data), 1440)))] ^= 1 << int(random.integers(8))
        try:
            Recording(write_ibt(path, bytes(data))).block(0, 0.1)
        except BrokenRecording as reason:
            refused += 1
            assert "\n" not in str(reason)
    assert refused > 100


@pytest.mark.skipif(not REAL.exists(), reason=f"no recorded drive at {REAL}; TRACKSIDE_IBT names one")
def test_a_real_drive() -> None:
    recording = Recording(REAL)
    assert recording.seconds > 10 and recording.groups[0].rate_hz == 60
    speed = values(recording, "Speed:iRacing", 0, recording.seconds)
    assert speed.min() >= 0 and 20 < speed.max() < 120
    latitude = values(recording, "Lat:iRacing", 0, recording.seconds)
    longitude = values(recording, "Lon:iRacing", 0, recording.seconds)
    metres = np.hypot(np.diff(latitude) * 111_195, np.diff(longitude) * 111_195 * np.cos(np.radians(latitude[0])))
    assert metres.sum() == pytest.approx(speed.sum() / 60, rel=0.02)
