"""The MuJoCo model of PegInHoleContact: a round peg on a compliant tool over a hole in a plate.

The frame's origin is the centre of the hole's mouth, z points up. The tool's joints have their axes
through the peg's tip (remote-centre compliance), and position actuators act as the springs and
dampers of a Cartesian impedance controller. Only boxes and capsules are used, whose contacts
MuJoCo computes in closed form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rewardzoo.extras import require
from rewardzoo.functional import positive
from rewardzoo.rewards.base import integer, number

CONTROL_HZ = 50
PHYSICS_STEPS = 10  # between two controls
TIMESTEP = 1.0 / (CONTROL_HZ * PHYSICS_STEPS)  # s
PEG_RADIUS = 10e-3  # m
CLEARANCE = 0.2e-3  # m, of the radii
HOLE_DEPTH = 20e-3  # m
PEG_LENGTH = 50e-3  # m
SENSOR_HEIGHT = 60e-3  # m above the tip
STIFFNESS = (1500.0, 1500.0, 800.0, 12.0, 12.0, 12.0)  # N/m and N m/rad
MASS, INERTIA = 1.0, 0.002  # kg, kg m^2: tool and peg together, about the tip
DAMPING_RATIO = 0.9
_SIDES = 12  # of the hole, and capsules of the peg
_CAPSULE = 1e-3  # m, radius of a capsule: also the lead-in of the peg's edge
_BLOCK = 0.03  # m, half width of a block of the plate


@dataclass(frozen=True)
class PegInHoleContactParams:
    """What varies between attempts, and the clock of the decisions."""

    pos_sigma: float = 2.0e-3
    """m, standard deviation of the error of the hole's assumed position, in x and in y."""
    tilt_sigma_deg: float = 2.5
    """Degrees, standard deviation of the tool's tilt about x and about y."""
    persistent_error: float = 0.0
    """Correlation of the errors of successive attempts; 1 repeats the first for ever."""
    noise: float = 1.0
    """Scale of the sensor's noise; at 1: 0.1 N in x and y, 0.2 N in z, 5 mN m."""
    friction: float = 0.25
    """Coulomb's coefficient between peg and plate."""
    search_radius: float = 3.5e-3
    """m, where the spiral stops growing: a hole beyond it is never found."""
    time_limit: float = 14.0
    """s, after which an attempt has failed; a multiple of ``stride``."""
    reset_time: float = 1.0
    """s, lost after every attempt that did not succeed."""
    window: float = 2.0
    """s of force and torque that are observed."""
    stride: float = 0.5
    """s between two decisions."""
    max_attempts: int = 20
    """An episode is truncated when so many attempts have not succeeded."""

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("pos_sigma", "tilt_sigma_deg", "noise", "friction", "reset_time"):
            number(name, getattr(self, name), 0.0)
        number("persistent_error", self.persistent_error, 0.0, 1.0)
        for name in ("search_radius", "time_limit", "window", "stride"):
            positive(name, getattr(self, name))
        integer("max_attempts", self.max_attempts, 1)
        for name in ("window", "stride"):
            value = getattr(self, name)
            if not math.isclose(value * CONTROL_HZ, round(value * CONTROL_HZ)):
                raise ValueError(f"{name}={value}: expected a multiple of {1 / CONTROL_HZ} s")
        if not math.isclose(self.time_limit / self.stride, round(self.time_limit / self.stride)):
            raise ValueError(
                f"time_limit={self.time_limit}: expected a multiple of stride={self.stride}"
            )


def xml(friction: float = 0.25) -> str:
    """The model as MJCF: 12 blocks and a floor, 12 capsules, 6 joints and actuators, a sensor."""
    inertia = (MASS, MASS, MASS, INERTIA, INERTIA, INERTIA)
    axes = ("1 0 0", "0 1 0", "0 0 1")
    joints, actuators = [], []
    for i, name in enumerate(("x", "y", "z", "rx", "ry", "rz")):
        kind = "slide" if i < 3 else "hinge"
        joints.append(f'<joint name="{name}" type="{kind}" axis="{axes[i % 3]}"/>')
        damping = 2.0 * DAMPING_RATIO * math.sqrt(STIFFNESS[i] * inertia[i])
        actuators.append(f'<position joint="{name}" kp="{STIFFNESS[i]}" kv="{damping:.9g}"/>')
    return f"""
<mujoco model="peg_in_hole">
  <option timestep="{TIMESTEP}" integrator="implicitfast" cone="elliptic" impratio="3"
    iterations="30" ls_iterations="20" gravity="0 0 0"/>
  <visual>
    <global offwidth="640" offheight="640"/>
    <headlight ambient=".45 .45 .45" diffuse=".5 .5 .5" specular=".1 .1 .1"/>
    <map znear=".002" zfar="40"/>
  </visual>
  <statistic extent=".12" center="0 0 .01"/>
  <asset>
    <texture name="sky" type="skybox" builtin="gradient" rgb1=".96 .97 .98" rgb2=".8 .83 .87"
      width="64" height="64"/>
  </asset>
  <default>
    <geom friction="{friction} .005 .0001" condim="3" solref="0.005 1"
      solimp="0.97 0.995 0.0002"/>
    <default class="plate"><geom type="box" contype="1" conaffinity="2"
      rgba=".62 .66 .71 1"/></default>
    <default class="peg"><geom type="capsule" size="{_CAPSULE}" contype="2" conaffinity="1"
      rgba=".85 .47 .13 1" mass="0"/></default>
    <default class="look"><geom contype="0" conaffinity="0" mass="0"/></default>
  </default>
  <worldbody>
    <light pos=".1 -.2 .3" dir="-.3 .6 -1" diffuse=".5 .5 .5" castshadow="false"/>
    {_plate()}
    <body name="tool">
      <inertial pos="0 0 0" mass="{0.9 * MASS}" diaginertia="{_inertia(0.9)}"/>
      {"".join(joints)}
      <geom class="look" type="cylinder" size=".016 .012" pos="0 0 .074" rgba=".25 .28 .33 1"/>
      <body name="peg">
        <inertial pos="0 0 0" mass="{0.1 * MASS}" diaginertia="{_inertia(0.1)}"/>
        {_peg()}
        <geom class="look" type="cylinder" size=".0094 .0246" pos="0 0 .0256"
          rgba=".85 .47 .13 1"/>
        <geom class="look" type="cylinder" size=".013 .003" pos="0 0 .057" rgba=".1 .45 .7 1"/>
        <site name="wrist" pos="0 0 {SENSOR_HEIGHT}" size=".002"/>
      </body>
    </body>
  </worldbody>
  <actuator>{"".join(actuators)}</actuator>
  <sensor><force site="wrist"/><torque site="wrist"/></sensor>
</mujoco>"""


def build(friction: float = 0.25) -> Any:
    """The compiled ``mujoco.MjModel``.

    Raises:
        ImportError: if MuJoCo is missing, saying how to install it.
    """
    return mujoco_module().MjModel.from_xml_string(xml(friction))


def mujoco_module() -> Any:
    """``mujoco`` with its ``rollout`` module loaded."""
    require("mujoco.rollout", "mujoco")
    return require("mujoco", "mujoco")


def _plate() -> str:
    """Blocks whose inner faces are tangent to the hole's circle, and a floor under them."""
    hole = PEG_RADIUS + CLEARANCE
    half = (hole + 2 * _BLOCK) * math.tan(math.pi / _SIDES)
    blocks = []
    for i in range(_SIDES):
        angle = 2 * math.pi * i / _SIDES
        x, y = ((hole + _BLOCK) * f(angle) for f in (math.cos, math.sin))
        blocks.append(
            f'<geom class="plate" size="{_BLOCK} {half:.9g} {HOLE_DEPTH / 2}" '
            f'pos="{x:.9g} {y:.9g} {-HOLE_DEPTH / 2}" euler="0 0 {math.degrees(angle):.9g}"/>'
        )
    blocks.append(f'<geom class="plate" size=".08 .08 .005" pos="0 0 {-HOLE_DEPTH - 0.005}"/>')
    return "".join(blocks)


def _peg() -> str:
    """Upright capsules around the peg's circle, from one radius above the tip."""
    ring = PEG_RADIUS - _CAPSULE
    capsules = []
    for i in range(_SIDES):
        angle = 2 * math.pi * i / _SIDES
        x, y = (ring * f(angle) for f in (math.cos, math.sin))
        ends = f"{x:.9g} {y:.9g} {_CAPSULE} {x:.9g} {y:.9g} {PEG_LENGTH}"
        capsules.append(f'<geom class="peg" fromto="{ends}"/>')
    return "".join(capsules)


def _inertia(share: float) -> str:
    return " ".join([f"{share * INERTIA:.9g}"] * 3)
