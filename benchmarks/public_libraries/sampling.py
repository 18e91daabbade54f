"""From probabilities at the rate of the sampled rows to natural ones. NumPy only: the drivers read it too.

No library here takes an offset per row, so its models learn the click rate among rows as they were sampled: of a
request's negatives a share w = keep_probability was kept, of its positives all. So the odds of a click among the kept
rows are 1/w times the natural odds.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]


def natural_probability(sampled: npt.ArrayLike, keep_probability: npt.ArrayLike) -> F64:
    """Return p / (p + (1 − p) / w): the natural probability of a click from the one among the sampled rows.

    It is exact where the model is: a row's w is that of its own request, known when its negatives were drawn. The
    model did not see w, so what it learned is an average over the requests that look alike to it; that is its error,
    and it is measured with it.

    Shapes:
        sampled, keep_probability: (B,), the latter in (0, 1].
    """
    p, w = np.asarray(sampled, np.float64), np.asarray(keep_probability, np.float64)
    return p / (p + (1.0 - p) / w)
