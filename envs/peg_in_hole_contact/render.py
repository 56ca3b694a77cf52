"""Frames: the scene, a section through the hole, and what the wrist feels.

The scene needs OpenGL without a screen (EGL); where there is none, the section takes its place.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from .model import CLEARANCE, HOLE_DEPTH, PEG_LENGTH, PEG_RADIUS, mujoco_module
from .process import Process
from .simulator import RUNNING

_PHASES = ("approach", "search", "insert")
_OUTCOMES = ("", "  inserted", "  time is up")
_SIDE = 240  # pixels of the scene and of the section
_PLOT = 70  # pixels of each of the two plots
_MARGIN = 22
_PIXELS = 4200.0  # a metre, in the section
_COLOURS = ((0, 114, 178), (0, 158, 115), (213, 94, 0))
_FORCE, _TORQUE = 20.0, 0.6  # N and N m at the plots' edges
_PLATE, _PEG, _TOOL = (158, 168, 181), (217, 120, 33), (64, 71, 84)


def frame(process: Process, lane: int) -> np.ndarray:
    """(402, 480, 3) uint8; 240 wide without OpenGL."""
    simulator = process.simulator
    views = [section(simulator.physics[lane], simulator.pose[lane])]
    picture = _scene(simulator.model, simulator.physics[lane])
    if picture is not None:
        views.insert(0, picture)
    width = _SIDE * len(views)
    image = Image.new("RGB", (width, _MARGIN + _SIDE + 2 * _PLOT), "white")
    for k, view in enumerate(views):
        image.paste(Image.fromarray(view), (_SIDE * k, _MARGIN))
    pen = ImageDraw.Draw(image)
    number = process.attempts[lane] + (simulator.outcome[lane] == RUNNING)
    words = (
        f"attempt {number}  {process.elapsed[lane]:5.1f} s  "
        f"{_PHASES[simulator.phase[lane]]}{_OUTCOMES[simulator.outcome[lane]]}"
    )
    pen.text((8, 5), f"{words}   makespan {process.makespan[lane]:.1f} s", fill="black")
    ft = process.ft[lane]
    for k, (rows, scale, unit) in enumerate(((ft[:3], _FORCE, "N"), (ft[3:], _TORQUE, "N m"))):
        _plot(pen, rows, _MARGIN + _SIDE + k * _PLOT, width, scale, unit)
    return np.asarray(image)


def section(physics: Any, pose: Any) -> np.ndarray:
    """(240, 240, 3) uint8: the plane y = 0; dashed: where the robot believes the hole."""
    image = Image.new("RGB", (_SIDE, _SIDE), (246, 248, 250))
    pen = ImageDraw.Draw(image)

    def pixel(x: float, z: float) -> tuple[float, float]:
        return _SIDE / 2 + _PIXELS * x, _SIDE / 2 - _PIXELS * z

    hole, wide = PEG_RADIUS + CLEARANCE, _SIDE / 2 / _PIXELS
    for left, right in ((-wide, -hole), (hole, wide)):
        pen.rectangle((*pixel(left, 0.0), *pixel(right, -HOLE_DEPTH)), fill=_PLATE)
    pen.rectangle((*pixel(-wide, -HOLE_DEPTH), *pixel(wide, -wide)), fill=_PLATE)
    x, z, tilt = physics[1], physics[3], physics[5]
    cos, sin = np.cos(tilt), np.sin(tilt)

    def on_tool(u: float, v: float) -> tuple[float, float]:
        return pixel(x + u * cos + v * sin, z - u * sin + v * cos)

    for radius, low, high, colour in (
        (PEG_RADIUS, 0.0, PEG_LENGTH, _PEG),
        (1.3 * PEG_RADIUS, PEG_LENGTH, 1.2 * PEG_LENGTH, _TOOL),
    ):
        corners = ((-radius, low), (-radius, high), (radius, high), (radius, low))
        pen.polygon([on_tool(u, v) for u, v in corners], fill=colour)
    column, _ = pixel(pose[0], 0.0)
    for y in range(0, _SIDE, 10):
        pen.line((column, y, column, y + 4), fill=(90, 90, 90))
    return np.asarray(image)


def _plot(pen: Any, rows: Any, top: int, width: int, scale: float, unit: str) -> None:
    """Three curves over the window, x, y, z, clipped at the scale."""
    middle, half = top + _PLOT / 2, _PLOT / 2 - 5
    pen.rectangle((0, top, width - 1, top + _PLOT - 1), outline=(210, 210, 210))
    pen.line((0, middle, width, middle), fill=(225, 225, 225))
    xs = np.linspace(0, width - 1, rows.shape[1])
    for row, colour in zip(rows, _COLOURS, strict=True):
        ys = middle - half * np.clip(row / scale, -1.0, 1.0)
        pen.line(list(zip(xs.tolist(), ys.tolist(), strict=True)), fill=colour)
    pen.text((4, top + 3), f"+-{scale:g} {unit}", fill=(90, 90, 90))
    for k, name in enumerate("xyz"):
        pen.text((width - 40 + 12 * k, top + 3), name, fill=_COLOURS[k])


def _scene(model: Any, physics: Any) -> np.ndarray | None:
    """(240, 240, 3) uint8 from MuJoCo's renderer; None without OpenGL."""
    renderer = _renderer()
    if renderer is None:
        return None
    mujoco = mujoco_module()
    data = mujoco.MjData(model)
    data.qpos[:] = physics[1:7]
    mujoco.mj_forward(model, data)
    scene, context = mujoco.MjvScene(model, maxgeom=100), _context(renderer, model)
    camera = mujoco.MjvCamera()
    camera.lookat[:] = (0.0, 0.0, 0.02)
    camera.distance, camera.azimuth, camera.elevation = 0.2, 125.0, -28.0
    everything = mujoco.mjtCatBit.mjCAT_ALL
    option, perturb = mujoco.MjvOption(), mujoco.MjvPerturb()
    mujoco.mjv_updateScene(model, data, option, perturb, camera, everything, scene)
    rectangle = mujoco.MjrRect(0, 0, _SIDE, _SIDE)
    mujoco.mjr_render(rectangle, scene, context)
    pixels = np.empty((_SIDE, _SIDE, 3), dtype=np.uint8)
    mujoco.mjr_readPixels(pixels, None, rectangle, context)
    return pixels[::-1]


@functools.cache
def _renderer() -> Any:
    """An OpenGL context without a screen, or None."""
    mujoco_module()
    try:
        from mujoco.egl import GLContext

        context = GLContext(_SIDE, _SIDE)
        context.make_current()
    except Exception:  # drivers fail in many ways, and the section alone is a picture too
        os.environ.pop("PYOPENGL_PLATFORM", None)
        return None
    return context


@functools.lru_cache(maxsize=4)
def _context(renderer: Any, model: Any) -> Any:
    mujoco = mujoco_module()
    renderer.make_current()
    context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
    mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, context)
    return context
