"""The simulated car as a source of telemetry: channels at 1 kHz and 100 Hz, laps and events, from any moment on.

``Car(seed).block(start_seconds, seconds)`` gives the same numbers whenever and wherever it is called. Inside, the
drive is cut into *chunks* of one second: the vehicle moves through a chunk in steps of 10 ms (:mod:`.vehicle`), and
everything faster is interpolated with numpy in one go. A vehicle at the start of each 64th chunk is kept, so that a
jump back costs at most 64 seconds of simulation; a jump forward costs what lies between (7 us a step).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trackside.bench.circuit import Circuit, default_circuit
from trackside.bench.telemetry import (
    NANOSECONDS,
    Block,
    Group,
    Lap,
    Occurrence,
    Samples,
    sample_range,
    sample_times,
    to_nanoseconds,
)
from trackside.bench.vehicle import GRAVITY, LIMITER_RPM, REVOLUTIONS_PER_METRE, STEP_SECONDS, Knot, Vehicle
from trackside.client.definitions import EventKind, Parameter

__all__ = ["FAST_HZ", "LIMITER", "LOCK_UP", "SLOW_HZ", "Car"]

FAST_HZ = 1_000
SLOW_HZ = 100
STEPS = round(1 / STEP_SECONDS)  # of the vehicle in a chunk
FAST_PER_STEP = FAST_HZ // STEPS
CHUNKS_KEPT = 8
CHECKPOINT_CHUNKS = 64

WHEELBASE_METRES = 3.1
TRACK_METRES = 1.6
STEERING_RATIO = 11.0
UNDERSTEER = 0.0003  # more lock with the square of the speed
FRONT_BRAKE_BAR = 120.0
REAR_BRAKE_BAR = 78.0

LIMITER = "ShiftLimiter:Engine"
LOCK_UP = "WheelLockUp:Chassis"

_GEARS = tuple((float(gear), str(gear) if gear else "N") for gear in range(9))

_FAST = (
    Parameter("vCar:Chassis", "Speed of the car", "km/h", 0, 360, "%6.2f"),
    Parameter("nEngine:Engine", "Engine speed", "rpm", 0, 13_000, "%6.0f"),
    Parameter("NGear:Gearbox", "Gear engaged", "", 0, 8, "%2.0f", _GEARS),
    Parameter("rThrottle:Driver", "Throttle pedal", "%", 0, 100, "%5.1f"),
    Parameter("pBrakeF:Chassis", "Brake pressure, front circuit", "bar", 0, 130, "%6.2f"),
    Parameter("pBrakeR:Chassis", "Brake pressure, rear circuit", "bar", 0, 90, "%6.2f"),
    Parameter("aSteerWheel:Driver", "Steering wheel angle, left positive", "deg", -180, 180, "%6.1f"),
    Parameter("gLat:Chassis", "Lateral acceleration, left corners positive", "g", -5, 5, "%5.2f"),
    Parameter("gLong:Chassis", "Longitudinal acceleration", "g", -6, 3, "%5.2f"),
    Parameter("vWheelFL:Chassis", "Wheel speed, front left", "km/h", 0, 360, "%6.2f"),
    Parameter("vWheelFR:Chassis", "Wheel speed, front right", "km/h", 0, 360, "%6.2f"),
    Parameter("vWheelRL:Chassis", "Wheel speed, rear left", "km/h", 0, 360, "%6.2f"),
    Parameter("vWheelRR:Chassis", "Wheel speed, rear right", "km/h", 0, 360, "%6.2f"),
)
_SLOW = (
    Parameter("GPSLatitude:GPS", "Latitude", "deg", -90, 90, "%11.7f"),
    Parameter("GPSLongitude:GPS", "Longitude", "deg", -180, 180, "%12.7f"),
    Parameter("aHeading:GPS", "Direction of travel, clockwise from north", "deg", 0, 360, "%6.1f"),
    Parameter("sLap:Chassis", "Distance since the line", "m", 0, 6_000, "%7.1f"),
    Parameter("NLap:Chassis", "Lap", "", 0, 10_000, "%4.0f"),
    Parameter("TTyreFL:Tyres", "Tyre surface temperature, front left", "degC", 0, 160, "%5.1f"),
    Parameter("TTyreFR:Tyres", "Tyre surface temperature, front right", "degC", 0, 160, "%5.1f"),
    Parameter("TTyreRL:Tyres", "Tyre surface temperature, rear left", "degC", 0, 160, "%5.1f"),
    Parameter("TTyreRR:Tyres", "Tyre surface temperature, rear right", "degC", 0, 160, "%5.1f"),
    Parameter("TWater:Engine", "Water temperature", "degC", 0, 140, "%5.1f"),
    Parameter("mFuel:Engine", "Fuel in the tank", "kg", 0, 110, "%6.2f"),
)
_EVENTS = (
    EventKind(LIMITER, "The engine ran into its limiter before a shift", 4, ("rpm", ""), ("%6.0f", "%2.0f")),
    EventKind(LOCK_UP, "A front wheel locked under braking", 3, ("km/h", "bar"), ("%6.1f", "%6.1f")),
)


class _Chunk(NamedTuple):
    fast: NDArray[np.float64]  # (channels, FAST_HZ)
    slow: NDArray[np.float64]  # (channels, SLOW_HZ)
    laps: tuple[Lap, ...]
    occurrences: tuple[Occurrence, ...]


class _Position(NamedTuple):
    """What the next chunk begins with."""

    vehicle: Vehicle
    lap_start_ns: int


class Car:
    """A drive that begins on the line at second 0 and never ends. Not thread-safe; give each thread its own."""

    name = "Simulated car"
    groups = (Group(FAST_HZ, _FAST), Group(SLOW_HZ, _SLOW))
    event_kinds = _EVENTS
    highlights = (
        "vCar:Chassis",
        "nEngine:Engine",
        "NGear:Gearbox",
        "rThrottle:Driver",
        "pBrakeF:Chassis",
        "gLat:Chassis",
        "gLong:Chassis",
        "sLap:Chassis",
        "NLap:Chassis",
        "TTyreFL:Tyres",
    )

    def __init__(self, seed: int = 1, circuit: Circuit | None = None) -> None:
        self.circuit = circuit or default_circuit()
        self._seed = seed
        self._checkpoints = [_Position(Vehicle(self.circuit, seed), 0)]
        self._chunks: OrderedDict[int, tuple[_Chunk, _Position]] = OrderedDict()

    def block(self, start_seconds: float, seconds: float) -> Block:
        """All samples, laps and events with start <= moment < end. Arrays are the caller's own.

        Raises ValueError for negative or infinite times.
        """
        start = to_nanoseconds(start_seconds)
        end = start + to_nanoseconds(seconds)
        numbers = range(start // NANOSECONDS, -(-end // NANOSECONDS)) if end > start else range(0)
        chunks = [self._chunk(number) for number in numbers]
        first = numbers.start
        return Block(
            start,
            end,
            (
                _cut([chunk.fast for chunk in chunks], FAST_HZ, first, start, end, len(_FAST)),
                _cut([chunk.slow for chunk in chunks], SLOW_HZ, first, start, end, len(_SLOW)),
            ),
            tuple(lap for chunk in chunks for lap in chunk.laps if start <= lap.time_ns < end),
            tuple(event for chunk in chunks for event in chunk.occurrences if start <= event.time_ns < end),
        )

    def first_lap_seconds(self) -> float:
        """How long the first lap takes; for a demonstration that wants to cross the line soon."""
        second = 0
        while True:
            for lap in self._chunk(second).laps:
                if lap.number == 2:
                    return lap.last_lap_seconds
            second += 1

    def _chunk(self, number: int) -> _Chunk:
        kept = self._chunks.get(number)
        if kept is not None:
            return kept[0]
        at, position = self._nearest_before(number)
        while True:
            chunk, position = self._drive(at, position)
            self._keep(at, chunk, position)
            if at == number:
                return chunk
            at += 1

    def _nearest_before(self, number: int) -> tuple[int, _Position]:
        """The chunk to start with, and what it begins with."""
        previous = self._chunks.get(number - 1)
        if previous is not None:
            return number, previous[1]
        checkpoint = min(number // CHECKPOINT_CHUNKS, len(self._checkpoints) - 1)
        return checkpoint * CHECKPOINT_CHUNKS, self._checkpoints[checkpoint]

    def _keep(self, number: int, chunk: _Chunk, after: _Position) -> None:
        self._chunks[number] = (chunk, after)
        if len(self._chunks) > CHUNKS_KEPT:
            self._chunks.popitem(last=False)
        if number + 1 == len(self._checkpoints) * CHECKPOINT_CHUNKS:
            self._checkpoints.append(after)

    def _drive(self, number: int, before: _Position) -> tuple[_Chunk, _Position]:
        vehicle = before.vehicle.snapshot()
        start_ns = number * NANOSECONDS
        knots = [vehicle.knot()]
        occurrences: list[Occurrence] = []
        for step in range(STEPS):
            vehicle.step()
            knots.append(vehicle.knot())
            occurrences += _occurrences(vehicle, start_ns + step * (NANOSECONDS // STEPS))
        table = np.array(knots)
        laps, lap_start = self._laps(table[:, 0], start_ns, before.lap_start_ns)
        noise = np.random.default_rng([self._seed, number])
        fast = _fast_channels(self.circuit, table, noise)
        slow = _slow_channels(self.circuit, table, noise)
        return _Chunk(fast, slow, laps, tuple(occurrences)), _Position(vehicle, lap_start)

    def _laps(self, distance: NDArray[np.float64], start_ns: int, lap_start: int) -> tuple[tuple[Lap, ...], int]:
        laps = [Lap(0, 1, math.nan)] if start_ns == 0 else []
        completed = np.floor(distance / self.circuit.length).astype(np.int64)
        for step in np.flatnonzero(np.diff(completed)):
            line = completed[step + 1] * self.circuit.length
            part = (line - distance[step]) / (distance[step + 1] - distance[step])
            moment = start_ns + math.ceil((step + part) * (NANOSECONDS // STEPS))
            laps.append(Lap(moment, int(completed[step + 1]) + 1, (moment - lap_start) / NANOSECONDS))
            lap_start = moment
        return tuple(laps), lap_start


def _occurrences(vehicle: Vehicle, moment_ns: int) -> list[Occurrence]:
    found = []
    if vehicle.hit_limiter:
        found.append(Occurrence(moment_ns, LIMITER, (min(vehicle.engine_rpm, LIMITER_RPM), float(vehicle.gear))))
    if vehicle.locked_up:
        pressure = vehicle.brake * FRONT_BRAKE_BAR
        found.append(Occurrence(moment_ns, LOCK_UP, (vehicle.speed * 3.6, pressure)))
    return found


def _cut(
    chunks: list[NDArray[np.float64]], rate_hz: int, first_chunk: int, start: int, end: int, channels: int
) -> Samples:
    first, stop = sample_range(rate_hz, start, end)
    if not chunks:
        return Samples(sample_times(rate_hz, first, first), np.empty((channels, 0)))
    whole = chunks[0] if len(chunks) == 1 else np.concatenate(chunks, axis=1)
    offset = first_chunk * rate_hz
    return Samples(sample_times(rate_hz, first, stop), whole[:, first - offset : stop - offset].copy())


def _fast_channels(circuit: Circuit, knots: NDArray[np.float64], noise: np.random.Generator) -> NDArray[np.float64]:
    """Rows as in ``_FAST``: speed and distance by integration between the knots, the rest linear."""
    tau = np.arange(FAST_PER_STEP) / FAST_HZ
    before, after = knots[:-1, :, None], knots[1:, :, None]
    column = {name: index for index, name in enumerate(Knot._fields)}
    linear = before + (after - before) * (tau * STEPS)

    def at(name: str) -> NDArray[np.float64]:
        return linear[:, column[name], :].ravel()

    initial, change = before[:, column["acceleration"]], (after - before)[:, column["acceleration"]] * STEPS
    speed_before, metres_before = before[:, column["speed"]], before[:, column["distance"]]
    speed = (speed_before + initial * tau + change * tau**2 / 2).ravel()
    metres = (metres_before + speed_before * tau + initial * tau**2 / 2 + change * tau**3 / 6).ravel()
    curvature = circuit.curvature_at(metres)
    gear = np.repeat(knots[:-1, column["gear"]], FAST_PER_STEP)
    lock = np.degrees(WHEELBASE_METRES * curvature * (1 + UNDERSTEER * speed**2)) * STEERING_RATIO
    kmh = speed * 3.6
    inner = curvature * TRACK_METRES / 2
    spin = 1 + 0.04 * at("throttle") * np.clip(1 - speed / 60, 0, 1)
    shake = _shake(noise, (3, speed.size))
    return np.array(
        [
            kmh,
            np.maximum(speed * REVOLUTIONS_PER_METRE * at("ratio"), 0.0),
            gear,
            at("throttle") * 100,
            at("brake") * FRONT_BRAKE_BAR,
            at("brake") * REAR_BRAKE_BAR,
            lock + shake[0] * 0.4,
            speed**2 * curvature / GRAVITY + shake[1] * 0.02,
            at("acceleration") / GRAVITY + shake[2] * 0.02,
            kmh * (1 - inner) * (1 - at("slip") * (curvature >= 0)),
            kmh * (1 + inner) * (1 - at("slip") * (curvature < 0)),
            kmh * (1 - inner) * spin,
            kmh * (1 + inner) * spin,
        ]
    )


def _slow_channels(circuit: Circuit, knots: NDArray[np.float64], noise: np.random.Generator) -> NDArray[np.float64]:
    """Rows as in ``_SLOW``; at 100 Hz a sample is a knot."""
    named = dict(zip(Knot._fields, knots[:-1].T, strict=True))
    latitude, longitude = circuit.position(named["distance"])
    tyres = np.array([named[name] for name in ("front_left", "front_right", "rear_left", "rear_right")])
    return np.array(
        [
            latitude,
            longitude,
            circuit.compass_at(named["distance"]),
            np.mod(named["distance"], circuit.length),
            np.floor(named["distance"] / circuit.length) + 1,
            *(tyres + _shake(noise, tyres.shape) * 0.15),
            named["water"],
            named["fuel"],
        ]
    )


def _shake(noise: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Noise of a sensor between -1 and 1, so that declared ranges hold."""
    return noise.uniform(-1.0, 1.0, shape)
