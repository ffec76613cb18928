"""The tables of outliers: means over seeds, by sites and roles of rows, before and after training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from measured import GROUPS, Student, outliers, spread
from tables import table


def mean_outliers(mine: Sequence[Student], when: str) -> dict[str, Any]:
    """The mean over seeds."""
    each = [o for s in mine if any((o := outliers(s, when)).values())]
    return {
        group: {role: {k: float(np.mean([o[group][role][k] for o in each])) for k in r} for role, r in roles.items()}
        for group, roles in (each[0].items() if each else ())
    }


def mean_spread(mine: Sequence[Student], when: str) -> dict[str, Any]:
    """The mean over seeds, by role."""
    each = [s for one in mine if (s := spread(one, when))]
    return {
        role: {k: float(np.mean([s[role][k] for s in each])) for k in ("share", "deviation")}
        for role in (each[0] if each else ())
    }


def outlier_table(found: dict[str, Any], key: str, form: str) -> str:
    """A row for each group of sites and role, a column for each model, before and after its training."""
    columns = [(m, when) for m in found["models"] for when in ("before", "after") if m["outliers"][when]]
    header = ["sites", "rows"]
    header += [f"{m['depth']} {m['gate']}" + (f", {w}" if m["gate"] != "teacher" else "") for m, w in columns]
    rows = []
    for group, title in GROUPS.items():
        roles = dict.fromkeys(r for m, w in columns for r in m["outliers"][w].get(group, {}))
        for role in roles:
            cells = [m["outliers"][w].get(group, {}).get(role) for m, w in columns]
            rows.append([title, role, *(f"{c[key]:{form}}" if c else "-" for c in cells)])
    return table(header, rows)


def spread_table(found: dict[str, Any]) -> str:
    """Before and after, of each model in one row; of the teacher once."""
    rows = []
    for m in found["models"]:
        for when in [w for w in ("before", "after") if m["spread"][w]]:
            by_role = [m["spread"][when][role] for role in ("speech", "padding")]
            shares = [f"{figures['share']:.1%}" for figures in by_role]
            deviations = [f"{figures['deviation']:.2f}" for figures in by_role]
            rows.append([m["depth"], m["gate"], "-" if m["gate"] == "teacher" else when, *shares, *deviations])
    header = ["layers", "gate", "training", "rows of speech", "rows of padding"]
    return table([*header, "deviation in speech", "deviation in padding"], rows) if rows else ""
