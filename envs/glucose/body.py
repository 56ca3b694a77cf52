"""The body of a patient with type-1 diabetes: the UVA/Padova model (2008), as simglucose has it.

Thirteen compartments in float64: glucose in the stomach (solid, liquid) and the gut, mg; glucose in
plasma and tissue, mg/kg; insulin in plasma, pmol/kg; insulin's action on utilisation, and, over two
delays, on production, pmol/l; insulin in the liver and in two compartments under the skin, pmol/kg;
glucose under the skin, mg/kg.

Only elementwise operations whose result does not depend on the number of rows: a row of a batch is
the patient alone, bit for bit.

Sources: Dalla Man, Rizza, Cobelli (2007), "Meal simulation model of the glucose-insulin system";
simglucose 0.2.11 (Xie 2018, MIT), with which the tests compare every compartment.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

COMPARTMENTS = 13
PLASMA, TISSUE, SKIN = 3, 4, 12  # where glucose is
EATING = 5.0  # g/min
PMOL_PER_UNIT = 6000.0
# Compartments that stand still once below 0; the others may be negative (insulin's actions).
_HELD = (3, 4, 5, 9, 10, 11, 12)


class Patient(NamedTuple):
    """Constants of N patients, each (N,) float64; units stand in ``patients.json``."""

    BW: Tensor
    kabs: Tensor
    kmax: Tensor
    kmin: Tensor
    b: Tensor
    d: Tensor
    f: Tensor
    Vg: Tensor
    Vi: Tensor
    k1: Tensor
    k2: Tensor
    kp1: Tensor
    kp2: Tensor
    kp3: Tensor
    Fsnc: Tensor
    ke1: Tensor
    ke2: Tensor
    Vm0: Tensor
    Vmx: Tensor
    Km0: Tensor
    p2u: Tensor
    Ib: Tensor
    ki: Tensor
    m1: Tensor
    m2: Tensor
    m4: Tensor
    m30: Tensor
    kd: Tensor
    ka1: Tensor
    ka2: Tensor
    ksc: Tensor
    u2ss: Tensor

    @property
    def basal(self) -> Tensor:
        """The insulin that keeps the patient's fasting glucose, (N,) U/min."""
        return self.u2ss * self.BW / PMOL_PER_UNIT


class Meal(NamedTuple):
    """What a patient eats, each (N,) float64."""

    planned: Tensor  # g still on the table
    bite: Tensor  # g eaten in the last minute
    before: Tensor  # mg in the stomach when the meal began
    eaten: Tensor  # g of this meal so far


@functools.cache
def table() -> dict[str, Any]:
    """``patients.json``: names, parameters and start of the patients, units, source and licence."""
    text = importlib.resources.files(__package__).joinpath("patients.json").read_text()
    found: dict[str, Any] = json.loads(text)
    return found


def constants() -> Tensor:
    """(K, 30) float64, a row for each field of ``Patient``, a column for each patient."""
    values = table()["parameters"]
    return torch.tensor([values[name] for name in Patient._fields], dtype=torch.float64)


def starts() -> Tensor:
    """(30, 13) float64, each patient's compartments at rest."""
    return torch.tensor(table()["start"], dtype=torch.float64)


def held(device: torch.device) -> Tensor:
    """(13, 1) bool, for ``live``: compartments that stand still once below 0."""
    mask = torch.zeros(COMPARTMENTS, 1, dtype=torch.bool)
    mask[list(_HELD)] = True
    return mask.to(device)


def live(
    x: Tensor,
    p: Patient,
    meal: Meal,
    served: Sequence[Tensor],
    rate: Tensor,
    substeps: int,
    held: Tensor,
) -> tuple[Tensor, Meal]:
    """Some minutes, by Runge-Kutta steps of fourth order.

    Args:
        x: (13, N) compartments.
        p: whose.
        meal: what is being eaten.
        served: for each minute (N,) g put on the table.
        rate: (N,) U/min of insulin, all the time.
        substeps: of a minute.
        held: of ``held``.
    """
    insulin = rate * PMOL_PER_UNIT / p.BW
    span = (p.kmax - p.kmin) / 2.0
    reaches = p.f * p.kabs / p.BW
    clears, liver, skin = p.m2 + p.m4, p.m1 + p.m30, p.ka1 + p.kd
    bends, falls = torch.stack([p.b, p.d]), torch.stack([1.0 - p.b, p.d])
    h = 1.0 / substeps

    for minute in served:
        planned = meal.planned + minute
        bite = planned.clamp(max=EATING)
        begins = (bite > 0.0) & (meal.bite <= 0.0)
        before = torch.where(begins, x[0] + x[1], meal.before)
        eaten = torch.where(begins, 0.0, meal.eaten) + bite
        meal = Meal(planned - bite, bite, before, eaten)

        food = bite * 1000.0
        whole = before + eaten * 1000.0  # mg, the meal by which the stomach sets its pace
        fasting = whole <= 0.0
        some = torch.where(fasting, 1.0, whole)
        bend, steep = bends * some, 2.5 / (falls * some)
        reach = torch.where(fasting, 0.0, span)

        def slope(
            x: Tensor,
            food: Tensor = food,
            bend: Tensor = bend,
            steep: Tensor = steep,
            reach: Tensor = reach,
        ) -> Tensor:
            solid, liquid, gut, gp, gt, ip, action, i1, i2, il, s1, s2, gs = x.unbind(0)
            grinds = p.kmax * solid
            full, empty = torch.tanh(steep * (solid + liquid - bend)).unbind(0)
            leaves = (p.kmax + reach * (full - empty)) * liquid
            produced = (p.kp1 - p.kp2 * gp - p.kp3 * i2).clamp(min=0.0)
            excreted = p.ke1 * (gp - p.ke2).clamp(min=0.0)
            exchange = p.k1 * gp - p.k2 * gt
            used = (p.Vm0 + p.Vmx * action) * gt / (p.Km0 + gt)
            it = ip / p.Vi
            found = torch.stack(
                [
                    food - grinds,
                    grinds - leaves,
                    leaves - p.kabs * gut,
                    produced + reaches * gut - p.Fsnc - excreted - exchange,
                    exchange - used,
                    p.m1 * il - clears * ip + p.ka1 * s1 + p.ka2 * s2,
                    p.p2u * (it - p.Ib - action),
                    p.ki * (it - i1),
                    p.ki * (i1 - i2),
                    p.m2 * ip - liver * il,
                    insulin - skin * s1,
                    p.kd * s1 - p.ka2 * s2,
                    p.ksc * (gp - gs),
                ]
            )
            return torch.where(held & (x < 0.0), 0.0, found)

        for _ in range(substeps):
            a = slope(x)
            b = slope(x + (0.5 * h) * a)
            c = slope(x + (0.5 * h) * b)
            d = slope(x + h * c)
            x = x + (h / 6.0) * (a + 2.0 * (b + c) + d)
    return x, meal
