r"""The losses of learners from logged decisions."""

from __future__ import annotations

import torch
from torch import Tensor


def expectile_loss(errors: Tensor, expectile: float) -> Tensor:
    r"""Return the mean of :math:`|\tau - 1[u < 0]|\, u^2`, that is least at the expectile.

    Kostrikov, Nair and Levine, "Offline reinforcement learning with implicit Q-learning" (ICLR
    2022), equation 5.

    Parameters
    ----------
    errors
        What is above its prediction, u, any shape.
    expectile
        Tau, in (0, 1); 0.5 gives half the mean square.
    """
    weights = torch.where(errors > 0, expectile, 1 - expectile)
    return (weights * errors.square()).mean()


def conservative_loss(values: Tensor, taken: Tensor) -> Tensor:
    r"""Return the mean of :math:`\log \sum_a \exp Q(s, a) - Q(s, a_{logged})`.

    Kumar, Zhou, Tucker and Levine, "Conservative Q-learning for offline reinforcement learning"
    (NeurIPS 2020), equation 4 without its factor.

    Parameters
    ----------
    values
        Q of actions, shape (batch, actions); of a single one, what is pressed down is its value.
    taken
        Q of the logged action, shape (batch,).
    """
    return (torch.logsumexp(values, dim=1) - taken).mean()
