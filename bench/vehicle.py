"""A racing car and its driver in steps of 10 ms: point mass, grip circle, eight gears, pedals that take time.

The driver knows the speed at which each corner can be taken and where braking for it must begin
(:func:`reference_speed`), and follows that with throttle and brake. Grip grows with downforce; what cornering uses is
not there for braking or traction. Between two steps acceleration is linear in time, so that speed and distance are
integrals of it exactly, at any rate a reader of the motion may choose.

What varies from lap to lap comes from the seed through :func:`_chance`, a function of (seed, what, number) and of
nothing else: the same car drives the same drive wherever one starts to look.
"""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trackside.bench.circuit import Circuit

__all__ = ["GRAVITY", "STEP_SECONDS", "Knot", "Vehicle", "reference_speed"]

STEP_SECONDS = 0.01
GRAVITY = 9.81

DRY_MASS_KG = 730.0
FUEL_KG = 90.0
FUEL_RESERVE_KG = 5.0  # the tank never runs dry: a demonstration may last for ever
FUEL_KG_PER_JOULE = 1.0 / 13e6
AIR_DENSITY = 1.2
DOWNFORCE_AREA = 3.2  # m2
DRAG_AREA = 1.0  # m2
ROLLING_NEWTON = 250.0
TYRE_GRIP = 1.6
REAR_SHARE = 0.62  # of the grip that the driven wheels have
POWER_WATT = 450e3
BRAKE_NEWTON = 22e3  # at full pressure

WHEEL_RADIUS = 0.33
REVOLUTIONS_PER_METRE = 60 / (2 * math.pi * WHEEL_RADIUS)  # rpm of a wheel at 1 m/s
GEARS = 8
RATIOS = tuple(float(ratio) for ratio in np.geomspace(14.6, 4.43, GEARS))  # engine turns a wheel turn
LIMITER_RPM = 11_800.0
IDLE_RPM = 3_500.0
SHIFT_SECONDS = 0.05
LIMITER_REACTION_SECONDS = 0.12

BRAKING_MARGIN = 0.82  # how much of the grip the driver plans to brake with
LOCK_UP_CHANCE = 0.2  # of a brake application
LOCK_UP_SECONDS = 0.35
AMBIENT_CELSIUS = 28.0


class Knot(NamedTuple):
    """The car at the end of one step, in metres, seconds and degrees Celsius.

    ``throttle`` and ``brake`` are 0 to 1; ``ratio`` is engine turns a wheel turn and moves during a shift;
    ``slip`` is the share of its speed that the inner front wheel has lost (locked: towards 1).
    Four tyres, then the water; ``fuel`` is in kg.
    """

    distance: float
    speed: float
    acceleration: float
    throttle: float
    brake: float
    gear: float
    ratio: float
    slip: float
    front_left: float
    front_right: float
    rear_left: float
    rear_right: float
    water: float
    fuel: float


class Vehicle:
    """The car in motion. ``step`` moves it on by :data:`STEP_SECONDS`; ``snapshot`` is a copy that drives the same way."""

    def __init__(self, circuit: Circuit, seed: int) -> None:
        self._seed = seed
        self._length = circuit.length
        self._per_metre = 1.0 / circuit.step
        self._reference: list[float] = reference_speed(circuit).tolist()
        self._curvature: list[float] = circuit.curvature.tolist()
        self.distance = 0.0
        self.speed = 65.0  # the drive begins on the line with a flying lap
        self.acceleration = 0.0
        self.throttle = 1.0
        self.brake = 0.0
        self.gear = 7
        self.ratio = RATIOS[self.gear - 1]
        self.slip = 0.0
        self.tyres = (84.0, 88.0, 90.0, 94.0)  # front left, front right, rear left, rear right
        self.water = 92.0
        self.fuel = FUEL_KG
        self._shift_left = 0.0
        self._limiter_left = 0.0
        self._lock_left = 0.0
        self._shifts = 0
        self._brakings = 0
        self.hit_limiter = False
        self.locked_up = False

    def snapshot(self) -> Vehicle:
        return copy.copy(self)  # nothing in it changes in place

    def knot(self) -> Knot:
        return Knot(
            self.distance,
            self.speed,
            self.acceleration,
            self.throttle,
            self.brake,
            float(self.gear),
            self.ratio,
            self.slip,
            *self.tyres,
            self.water,
            self.fuel,
        )

    @property
    def engine_rpm(self) -> float:
        return self.speed * REVOLUTIONS_PER_METRE * self.ratio

    def step(self) -> None:
        """Move on. ``hit_limiter`` and ``locked_up`` say whether that began in this step."""
        self.hit_limiter = self.locked_up = False
        curvature = self._look_up(self._curvature, self.distance)
        grip, sideways = _grip(self.mass, self.speed, curvature)
        wanted = self._wanted_acceleration()
        self._move_pedals(wanted, grip)
        self._change_gear()
        before = self.acceleration
        self.acceleration = self._force(grip) / self.mass
        self._warm(sideways / self.mass, curvature)
        self._travel(before)

    @property
    def mass(self) -> float:
        return DRY_MASS_KG + self.fuel

    def _wanted_acceleration(self) -> float:
        """What the driver asks for: follow the reference speed that holds a moment ahead."""
        ahead = self.distance + self.speed * 0.06
        pace = self._pace(ahead)
        now = self._look_up(self._reference, ahead) * pace
        soon = self._look_up(self._reference, ahead + 3.0) * pace
        planned = (soon - now) / 3.0 * now
        return planned + 4.0 * (now - self.speed)

    def _pace(self, distance: float) -> float:
        """A driver is never twice the same: slow waves over the distance driven, within 1.4 per cent."""
        shift = self._seed % 1_000
        wave = math.sin(distance / 611.0 + shift) + math.sin(distance / 1_427.0 + 2.3 * shift)
        return 0.986 + 0.007 * wave

    def _move_pedals(self, wanted: float, grip: float) -> None:
        needed = wanted * self.mass + _resistance(self.speed)
        throttle = min(max(needed / self._drive_newton(grip), 0.0), 1.0)
        brake = min(max(-needed / BRAKE_NEWTON, 0.0), 1.0) if throttle == 0.0 else 0.0
        if self.brake < 0.3 <= self.brake + (brake - self.brake) * 0.3:
            self._begin_braking()
        self.throttle += (throttle - self.throttle) * 0.2
        self.brake += (brake - self.brake) * 0.3
        self._lock_left = max(self._lock_left - STEP_SECONDS, 0.0) if self.brake > 0.1 else 0.0
        self.slip += ((0.65 if self._lock_left else 0.0) - self.slip) * 0.25

    def _begin_braking(self) -> None:
        self._brakings += 1
        if _chance(self._seed, 1, self._brakings) < LOCK_UP_CHANCE:
            self._lock_left = LOCK_UP_SECONDS
            self.locked_up = True

    def _change_gear(self) -> None:
        goal = RATIOS[self.gear - 1]
        if self._shift_left > 0.0:
            self._shift_left -= STEP_SECONDS
            steps_left = max(round(self._shift_left / STEP_SECONDS), 0)
            self.ratio += (goal - self.ratio) / (steps_left + 1)
            return
        self.ratio = goal
        if self._limiter_left > 0.0:
            self._limiter_left -= STEP_SECONDS
            if self._limiter_left <= 0.0:
                self._shift(+1)
        elif self.gear < GEARS and self.engine_rpm > self._shift_rpm() and self.throttle > 0.3:
            self._reach_shift_point()
        elif self.gear > 1 and self.speed * REVOLUTIONS_PER_METRE * RATIOS[self.gear - 2] < 9_600.0:
            self._shift(-1)

    def _shift_rpm(self) -> float:
        """Where the driver shifts this time; one time in six too late, so that the limiter is first."""
        return min(11_300.0 + 600.0 * _chance(self._seed, 2, self._shifts), LIMITER_RPM)

    def _reach_shift_point(self) -> None:
        if self._shift_rpm() < LIMITER_RPM:
            self._shift(+1)
        else:
            self._limiter_left = LIMITER_REACTION_SECONDS
            self.hit_limiter = True

    def _shift(self, by: int) -> None:
        self.gear += by
        self._shifts += 1
        self._limiter_left = 0.0
        self._shift_left = SHIFT_SECONDS

    def _drive_newton(self, grip: float) -> float:
        share = self.engine_rpm / 11_000.0
        power = POWER_WATT * max(share * (1.6 - 0.6 * share * share), 0.1)
        return min(power / max(self.speed, 5.0), REAR_SHARE * grip)

    def _force(self, grip: float) -> float:
        cut = self._shift_left > 0.0 or self._limiter_left > 0.0
        drive = 0.0 if cut else self.throttle * self._drive_newton(grip)
        braking = min(self.brake * BRAKE_NEWTON, grip) * (1.0 - 0.08 * self.slip)
        if not cut:
            burnt = drive * self.speed * STEP_SECONDS * FUEL_KG_PER_JOULE
            self.fuel = max(self.fuel - burnt, FUEL_RESERVE_KG)
        return drive - braking - _resistance(self.speed)

    def _warm(self, sideways: float, curvature: float) -> None:
        """Tyres take heat from what they carry: the outer ones from cornering, front braking, rear driving."""
        left = 0.65 if curvature < 0 else 0.35
        cornering = sideways * self.speed * 0.024
        front = self.brake * self.speed * 0.16 + self.slip * 6.0
        rear = self.throttle * min(self.speed, 40.0) * 0.06
        heats = (
            cornering * left + front,
            cornering * (1 - left) + front,
            cornering * left + rear,
            cornering * (1 - left) + rear,
        )
        cooling = 0.024 + 0.0007 * self.speed
        a, b, c, d = (
            tyre + (heat - cooling * (tyre - AMBIENT_CELSIUS)) * STEP_SECONDS
            for tyre, heat in zip(self.tyres, heats, strict=True)
        )
        self.tyres = a, b, c, d
        self.water += (self.throttle * 2.2 - (self.water - 60.0) * (0.02 + 0.0004 * self.speed)) * STEP_SECONDS

    def _travel(self, before: float) -> None:
        """Acceleration went linearly from ``before`` to its new value: integrate that exactly."""
        after = self.acceleration
        self.distance += STEP_SECONDS * self.speed + STEP_SECONDS**2 * (2 * before + after) / 6
        self.speed += STEP_SECONDS * (before + after) / 2

    def _look_up(self, table: list[float], distance: float) -> float:
        place = (distance % self._length) * self._per_metre
        row = int(place)
        return table[row] + (table[row + 1] - table[row]) * (place - row) if row + 1 < len(table) else table[row]


def reference_speed(circuit: Circuit) -> NDArray[np.float64]:
    """The fastest speed in m/s at each point of the circuit from which every later corner can still be taken.

    Cornering alone sets it where it is lowest; backwards from there it rises as braking allows. Twice around, so
    that the braking for the first corner is known before the line.
    """
    mass = DRY_MASS_KG + FUEL_KG
    speed = _cornering_speed(np.abs(circuit.curvature), mass).tolist()
    curvature = circuit.curvature.tolist()
    last = len(speed) - 1
    for row in [*range(last - 1, -1, -1)] * 2:
        following = speed[0] if row + 1 == last else speed[row + 1]
        grip, _ = _grip(mass, following, curvature[row + 1])
        slowing = (BRAKING_MARGIN * grip + _resistance(following)) / mass
        speed[row] = min(speed[row], math.sqrt(following * following + 2 * slowing * circuit.step))
    speed[last] = speed[0]
    return np.array(speed)


def _cornering_speed(curvature: NDArray[np.float64], mass: float) -> NDArray[np.float64]:
    """Where grip, with the downforce that the speed gives, just holds the car; at most 110 m/s."""
    missing = mass * curvature - TYRE_GRIP * 0.5 * AIR_DENSITY * DOWNFORCE_AREA
    squared = np.where(missing > 0, TYRE_GRIP * mass * GRAVITY / np.where(missing > 0, missing, 1.0), np.inf)
    return np.minimum(0.97 * np.sqrt(squared), 110.0)


def _grip(mass: float, speed: float, curvature: float) -> tuple[float, float]:
    """What is left for braking or traction, and what cornering uses, in newton: the circle of grip."""
    whole = TYRE_GRIP * (mass * GRAVITY + 0.5 * AIR_DENSITY * DOWNFORCE_AREA * speed * speed)
    sideways = mass * speed * speed * abs(curvature)
    return math.sqrt(max(whole * whole - sideways * sideways, (0.1 * whole) ** 2)), sideways


def _resistance(speed: float) -> float:
    return 0.5 * AIR_DENSITY * DRAG_AREA * speed * speed + ROLLING_NEWTON


def _chance(seed: int, what: int, number: int) -> float:
    """A number in [0, 1) that depends on its arguments only (the mixing steps of splitmix64)."""
    mixed = (seed * 0x9E3779B97F4A7C15 + what * 0xD1B54A32D192ED03 + number * 0x8CB92BA72F3D8DD7) & _ALL
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _ALL
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _ALL
    return (mixed ^ (mixed >> 31)) / 2**64


_ALL = (1 << 64) - 1
