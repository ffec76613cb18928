"""Where attention's probability goes, by roles (data/roles.py) of queries and of keys.

share(r, s) = mean over queries q of role r of  sum over keys k of role s of P[q, k]
"""

from collections.abc import Mapping

import numpy as np

Roles = Mapping[str, range]
Shares = dict[str, dict[str, float]]


def role_shares(probs: np.ndarray, queries: Roles, keys: Roles) -> Shares:
    """probs (..., queries, keys), such as one head's or all heads'; those roles of which there are rows."""
    return {
        role: {
            to: float(probs[..., rows.start : rows.stop, columns.start : columns.stop].sum(-1).mean(dtype=np.float64))
            for to, columns in keys.items()
            if columns
        }
        for role, rows in queries.items()
        if rows
    }
