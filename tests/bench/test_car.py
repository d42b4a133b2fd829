"""The simulated car is the same for everybody, and moves as a car can."""

from __future__ import annotations

import numpy as np
import pytest

from trackside.bench.car import FAST_HZ, Car
from trackside.bench.circuit import Circuit, Corner, default_circuit
from trackside.bench.telemetry import NANOSECONDS, Block

STINT_SECONDS = 200.0  # two laps and a bit
GRAVITY = 9.81


@pytest.fixture(scope="module")
def stint() -> Block:
    return Car(seed=5).block(0, STINT_SECONDS)


def channel(block: Block, name: str) -> np.ndarray:
    for group, samples in zip(Car.groups, block.samples, strict=True):
        if name in group.identifiers:
            return samples.values[group.identifiers.index(name)]
    raise KeyError(name)


def test_same_seed_same_drive() -> None:
    ours, theirs = Car(seed=3).block(7.123, 2.5), Car(seed=3).block(7.123, 2.5)
    for one, other in zip(ours.samples, theirs.samples, strict=True):
        assert np.array_equal(one.values, other.values) and np.array_equal(one.times_ns, other.times_ns)
    assert ours.occurrences == theirs.occurrences


def test_another_seed_is_another_drive() -> None:
    one, other = Car(seed=3).block(40, 10), Car(seed=4).block(40, 10)
    assert not np.allclose(channel(one, "vCar:Chassis"), channel(other, "vCar:Chassis"), atol=0.1)


def test_it_does_not_matter_how_one_comes_to_a_moment(stint: Block) -> None:
    """Forwards in small steps, backwards, straight in: also across the checkpoints of 64 seconds."""
    car = Car(seed=5)
    for start in (190.0, 63.5, 128.25, 0.0, 64.0, 127.996):
        part = car.block(start, 1.75)
        for samples, whole, group in zip(part.samples, stint.samples, car.groups, strict=True):
            first = round(start * group.rate_hz)
            assert np.array_equal(samples.values, whole.values[:, first : first + samples.values.shape[1]])


def test_blocks_join_without_gap_or_repeat() -> None:
    car = Car(seed=1)
    blocks = [car.block(index * 0.013, 0.013) for index in range(200)]
    for row, group in enumerate(car.groups):
        times = np.concatenate([block.samples[row].times_ns for block in blocks])
        assert np.all(np.diff(times) == NANOSECONDS // group.rate_hz)
        assert len(times) == round(200 * 0.013 * group.rate_hz)


def test_an_empty_block_has_no_samples_but_the_right_channels() -> None:
    block = Car().block(12.0, 0.0)
    assert [samples.values.shape for samples in block.samples] == [(13, 0), (11, 0)]


@pytest.mark.parametrize("start", [-1.0, float("nan"), float("inf")])
def test_impossible_times_are_refused(start: float) -> None:
    with pytest.raises(ValueError, match="seconds is"):
        Car().block(start, 1.0)


@pytest.mark.parametrize("seed", [0, 5, 77, 123_456])
def test_declared_ranges_hold(seed: int) -> None:
    block = Car(seed).block(0, 100)
    for group, samples in zip(Car.groups, block.samples, strict=True):
        for parameter, values in zip(group.parameters, samples.values, strict=True):
            assert np.all(np.isfinite(values)), parameter.identifier
            assert values.min() >= parameter.minimum and values.max() <= parameter.maximum, parameter.identifier


def test_longitudinal_g_is_the_derivative_of_speed(stint: Block) -> None:
    speed = channel(stint, "vCar:Chassis") / 3.6
    derivative = (speed[2:] - speed[:-2]) * FAST_HZ / 2
    felt = channel(stint, "gLong:Chassis")[1:-1] * GRAVITY
    # Noise of the sensor is at most 0.02 g; between two steps acceleration is linear, so at the corners of that
    # line the central difference is off by a quarter of the change of slope, below 0.05 g a sample.
    assert np.max(np.abs(derivative - felt)) < 0.07 * GRAVITY
    assert abs(np.mean(derivative - felt)) < 0.001 * GRAVITY


def test_distance_is_the_integral_of_speed(stint: Block) -> None:
    """The lap distance is sampled from the same motion: between two of its samples lies the mean speed."""
    speed = channel(stint, "vCar:Chassis").reshape(-1, 10) / 3.6
    moved = np.diff(channel(stint, "sLap:Chassis"))
    on_lap = moved > 0
    assert np.count_nonzero(~on_lap) == len(stint.laps) - 1
    assert np.allclose(moved[on_lap], speed[:-1].mean(axis=1)[on_lap] * 0.01, atol=0.0005)


def test_speed_does_not_jump(stint: Block) -> None:
    assert np.max(np.abs(np.diff(channel(stint, "vCar:Chassis")))) < 0.2  # km/h in a millisecond, 5.6 g


def test_grip_limits_what_the_car_does(stint: Block) -> None:
    sideways, along = channel(stint, "gLat:Chassis"), channel(stint, "gLong:Chassis")
    speed = channel(stint, "vCar:Chassis") / 3.6
    limit = 1.6 * (1 + 0.5 * 1.2 * 3.2 * speed**2 / (730 * GRAVITY)) + 0.5 * 1.2 * speed**2 / (730 * GRAVITY) + 0.1
    assert np.all(np.hypot(sideways, along) < limit)
    assert np.max(np.abs(sideways)) > 1.5 and np.min(along) < -2 and np.max(along) > 0.8  # and it is driven hard


def test_engine_and_speed_agree_with_the_gear(stint: Block) -> None:
    gear, rpm = channel(stint, "NGear:Gearbox"), channel(stint, "nEngine:Engine")
    ratio = rpm / channel(stint, "vCar:Chassis")
    for number in np.unique(gear):
        settled = (gear == number) & (np.roll(gear, 80) == number)  # 50 ms after a shift
        assert np.ptp(ratio[settled]) < 1e-6 * ratio[settled].mean()
    assert set(np.unique(np.diff(gear))) <= {-1.0, 0.0, 1.0}


def test_throttle_and_brake_exclude_each_other_but_for_the_change(stint: Block) -> None:
    both = (channel(stint, "rThrottle:Driver") > 30) & (channel(stint, "pBrakeF:Chassis") > 30)
    assert both.mean() < 0.01


def test_laps_close(stint: Block) -> None:
    """The car is back at the line, the lap number counts, and each lap takes about as long as the others."""
    assert [lap.number for lap in stint.laps] == [1, 2, 3]
    assert np.isnan(stint.laps[0].last_lap_seconds)
    number, distance = channel(stint, "NLap:Chassis"), channel(stint, "sLap:Chassis")
    for lap in stint.laps[1:]:
        sample = -(-lap.time_ns // 10_000_000)  # the first of the 100 Hz samples on the new lap
        assert number[sample] == lap.number and number[sample - 1] == lap.number - 1
        assert distance[sample] < 1.0 and distance[sample - 1] > default_circuit().length - 1.0
    times = [lap.last_lap_seconds for lap in stint.laps[1:]]
    assert sum(times) == pytest.approx(stint.laps[-1].time_ns / NANOSECONDS)
    assert abs(times[0] - times[1]) < 2 and 80 < times[0] < 100
    assert Car(seed=5).first_lap_seconds() == times[0]


def test_positions_repeat_lap_after_lap(stint: Block) -> None:
    """At the same distance the car is at the same place: the GPS loop closes."""
    latitude, longitude = channel(stint, "GPSLatitude:GPS"), channel(stint, "GPSLongitude:GPS")
    distance, lap = channel(stint, "sLap:Chassis"), channel(stint, "NLap:Chassis")
    probe = np.linspace(10, 4_700, 300)
    first, second = (
        np.array([np.interp(probe, distance[lap == n], values[lap == n]) for values in (latitude, longitude)])
        for n in (1, 2)
    )
    assert np.max(np.abs(first - second)) * 111_000 < 0.05  # metres
    ends = np.flatnonzero(np.diff(lap))
    step = np.hypot(np.diff(latitude), np.diff(longitude) * np.cos(np.radians(46.5))) * 111_195
    assert np.allclose(step[ends], channel(stint, "vCar:Chassis")[::10][ends] / 3.6 * 0.01, atol=0.02)


def test_events_fit_what_the_channels_show(stint: Block) -> None:
    kinds = {event.identifier for event in stint.occurrences}
    assert kinds == {kind.identifier for kind in Car.event_kinds}
    for event in stint.occurrences:
        kind = next(kind for kind in Car.event_kinds if kind.identifier == event.identifier)
        assert len(event.values) == len(kind.units) == len(kind.format_strings)
        after = slice(event.time_ns // 1_000_000, event.time_ns // 1_000_000 + 400)
        if event.identifier.startswith("ShiftLimiter"):
            assert channel(stint, "nEngine:Engine")[after].max() > 11_780
        else:
            wheels = np.minimum(channel(stint, "vWheelFL:Chassis"), channel(stint, "vWheelFR:Chassis"))
            assert np.min(wheels[after] / channel(stint, "vCar:Chassis")[after]) < 0.7


def test_tyres_warm_up_and_stay_alive(stint: Block) -> None:
    for wheel in ("FL", "FR", "RL", "RR"):
        temperature = channel(stint, f"TTyre{wheel}:Tyres")
        assert temperature.min() > 40 and temperature.max() < 140 and np.ptp(temperature) > 15


def test_names_are_in_the_style_of_the_field() -> None:
    for group in Car.groups:
        for parameter in group.parameters:
            assert parameter.name and parameter.application and parameter.identifier.count(":") == 1
            assert parameter.format_string.startswith("%") and parameter.maximum > parameter.minimum


def test_the_circuit_is_closed_and_smooth() -> None:
    circuit = default_circuit()
    assert np.hypot(circuit.east[-1], circuit.north[-1]) < 0.001
    assert circuit.heading[-1] - circuit.heading[0] == pytest.approx(2 * np.pi)
    assert np.max(np.abs(np.diff(circuit.curvature))) < 0.002
    assert np.allclose(np.hypot(np.diff(circuit.east), np.diff(circuit.north)), circuit.step, atol=1e-3)


def test_a_circuit_that_cannot_close_says_so() -> None:
    with pytest.raises(ValueError, match="turn by 90 degrees"):
        Circuit((Corner(100, 90, 100),), 100, (0.0, 0.0))
