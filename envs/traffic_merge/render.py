"""The merge from above: vehicles coloured by speed, controlled ones ringed, and who waits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 480, 200
_WEST = 200.0  # m, x of the left edge: the ramp and what is beside it are in the picture
_TOP = 50  # pixels, of the highway
_SCALE = 1.0  # pixels a metre
_NORTH = 110.0  # m, y of the highway
_ROAD, _EDGE = (205, 205, 205), (150, 150, 150)
_SLOW, _FAST = np.array([213, 94, 0]), np.array([0, 158, 115])
_RING = (0, 0, 0)
_FASTEST = 30.0  # m/s
_LENGTH = 5.0  # m, of a vehicle


class Car(NamedTuple):
    """A vehicle."""

    x: float  # m, of its front
    y: float  # m
    angle: float  # degrees, clockwise from north
    speed: float  # m/s
    controlled: bool


def frame(
    roads: Sequence[Sequence[tuple[float, float]]],
    cars: Sequence[Car],
    second: int,
    waiting: Sequence[int],
) -> np.ndarray:
    """(200, 480, 3) uint8.

    Args:
        roads: points of each road's middle, m.
        cars: who is on them.
        second: of the episode.
        waiting: vehicles before the highway and before the ramp.
    """
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    for width, fill in ((14, _EDGE), (12, _ROAD)):
        for road in roads:
            draw.line([_pixel(*point) for point in road], fill=fill, width=width)
        # The junction.
        ends = [roads[0][-1], roads[2][0], roads[1][-1]]
        draw.line([_pixel(*point) for point in ends], fill=fill, width=width)
    for car in cars:
        heading = math.radians(car.angle)
        east, north = math.sin(heading), math.cos(heading)
        share = min(1.0, car.speed / _FASTEST)
        colour = tuple(int(c) for c in _SLOW + share * (_FAST - _SLOW))
        front = _pixel(car.x, car.y)
        back = _pixel(car.x - _LENGTH * east, car.y - _LENGTH * north)
        if car.controlled:
            middle = ((front[0] + back[0]) / 2, (front[1] + back[1]) / 2)
            box = [middle[0] - 8, middle[1] - 8, middle[0] + 8, middle[1] + 8]
            draw.ellipse(box, outline=_RING, width=2)
        draw.line((front, back), fill=colour, width=7)
    speed = sum(car.speed for car in cars) / len(cars) if cars else 0.0
    said = f"{second} s   {len(cars)} on the road, {speed:.1f} m/s   waiting:"
    draw.text((8, 8), f"{said} highway {waiting[0]}, ramp {waiting[1]}", fill="black")
    draw.text((8, HEIGHT - 20), "orange stands, green goes, ringed are controlled", fill="black")
    return np.asarray(image)


def _pixel(x: float, y: float) -> tuple[float, float]:
    return _SCALE * (x - _WEST), _TOP + _SCALE * (_NORTH - y)
