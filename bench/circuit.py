"""A closed circuit that exists nowhere: curvature, direction and position along its centre line.

Corners have the curvature of a raised cosine, so that heading and position are smooth and a car can be steered along
them: a corner of angle a over length w has the smallest radius w / 2a, half way. Two straights of different direction
get the lengths with which the line ends where it began; the rest of the table is free.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["STEP_METRES", "Circuit", "Corner", "default_circuit"]

STEP_METRES = 1.0
"""Aim for the distance between points of the tables; the real step divides the length of the lap."""

EARTH_RADIUS_METRES = 6_371_008.8


class Corner(NamedTuple):
    """A straight and the corner behind it; positive angles turn left."""

    straight_metres: float
    angle_degrees: float
    length_metres: float


_CORNERS = (
    Corner(520, 95, 120),
    Corner(60, -50, 90),
    Corner(180, 75, 150),
    Corner(340, 60, 140),
    Corner(160, -70, 120),
    Corner(160, 140, 130),
    Corner(360, -55, 190),
    Corner(90, -40, 110),
    Corner(160, 85, 120),
    Corner(300, 120, 180),
)
_FREE_STRAIGHTS = (0, 9)  # their lengths close the loop
_LAST_STRAIGHT_METRES = 180.0  # from the last corner to the line
_ORIGIN_DEGREES = (46.5, 9.0)  # where the line is; any place would do


class Circuit:
    """Tables over distance from the line, one row a step, the last row equal to the first but for the lap's turn.

    ``distance``, ``curvature`` (1/m, left positive), ``heading`` (radians, east is 0, grows to the left), ``east`` and
    ``north`` (metres from the line).
    """

    def __init__(self, corners: tuple[Corner, ...], last_straight: float, origin: tuple[float, float]) -> None:
        turn = sum(corner.angle_degrees for corner in corners)
        if abs(abs(turn) - 360) > 1e-9:
            raise ValueError(f"corners turn by {turn} degrees in all: a closed circuit turns by 360")
        self._starts = _corner_starts(corners)
        self._corners = corners
        self._origin = origin
        self.length = float(self._starts[-1] + corners[-1].length_metres + last_straight)
        steps = round(self.length / STEP_METRES)
        self.distance: NDArray[np.float64] = np.linspace(0.0, self.length, steps + 1)
        self.step = self.length / steps
        self.heading, self.curvature = self._bend(self.distance)
        self.east = _integrate(np.cos(self.heading), self.step)
        self.north = _integrate(np.sin(self.heading), self.step)

    def position(self, distance: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Latitude and longitude in degrees at a distance in metres; laps fold onto each other."""
        along = np.mod(distance, self.length)
        latitude = self._origin[0] + np.degrees(np.interp(along, self.distance, self.north) / EARTH_RADIUS_METRES)
        metres = np.interp(along, self.distance, self.east)
        shrink = np.cos(np.radians(self._origin[0]))
        return latitude, self._origin[1] + np.degrees(metres / (EARTH_RADIUS_METRES * shrink))

    def curvature_at(self, distance: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.interp(np.mod(distance, self.length), self.distance, self.curvature)

    def compass_at(self, distance: NDArray[np.float64]) -> NDArray[np.float64]:
        """Direction of travel in degrees, north is 0, clockwise, in [0, 360)."""
        heading = np.interp(np.mod(distance, self.length), self.distance, self.heading)
        return np.mod(90.0 - np.degrees(heading), 360.0)

    def _bend(self, distance: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        heading = np.zeros_like(distance)
        curvature = np.zeros_like(distance)
        for start, corner in zip(self._starts, self._corners, strict=True):
            through = np.clip((distance - start) / corner.length_metres, 0.0, 1.0)
            angle = np.radians(corner.angle_degrees)
            heading += angle * (through - np.sin(2 * np.pi * through) / (2 * np.pi))
            curvature += angle / corner.length_metres * (1 - np.cos(2 * np.pi * through))
        return heading, curvature


def default_circuit() -> Circuit:
    """The circuit of the simulated car: 4.8 km, ten corners, anticlockwise, the line on the long straight."""
    corners = _closed(_CORNERS, _FREE_STRAIGHTS, _LAST_STRAIGHT_METRES)
    return Circuit(corners, _LAST_STRAIGHT_METRES, _ORIGIN_DEGREES)


def _closed(corners: tuple[Corner, ...], free: tuple[int, int], last_straight: float) -> tuple[Corner, ...]:
    """The same corners with two straights lengthened so that the end meets the start: two linear equations."""
    open_line = Circuit(corners, last_straight, (0.0, 0.0))
    turned = np.radians(np.cumsum([0.0, *(corner.angle_degrees for corner in corners)]))
    headings = turned[list(free)]
    gap = np.array([open_line.east[-1], open_line.north[-1]])
    lengthen = np.linalg.solve(np.array([np.cos(headings), np.sin(headings)]), -gap)
    closed = list(corners)
    for index, metres in zip(free, lengthen, strict=True):
        straight = closed[index].straight_metres + float(metres)
        if straight < 0:
            raise ValueError(f"straight {index} would have to be {straight:.0f} m long to close the circuit")
        closed[index] = closed[index]._replace(straight_metres=straight)
    return tuple(closed)


def _corner_starts(corners: tuple[Corner, ...]) -> NDArray[np.float64]:
    lengths = np.array([[corner.straight_metres, corner.length_metres] for corner in corners])
    starts: NDArray[np.float64] = np.cumsum(lengths.sum(axis=1)) - lengths[:, 1]
    return starts


def _integrate(slope: NDArray[np.float64], step: float) -> NDArray[np.float64]:
    """Trapezoids from 0; on these smooth lines the error over a lap is below a millimetre."""
    return np.concatenate([[0.0], np.cumsum((slope[1:] + slope[:-1]) * (step / 2))])
