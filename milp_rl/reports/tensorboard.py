"""Writing for TensorBoard, which is an extra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from milp_rl.extras import needs


def summary_writer(folder: str | Path, *, purge_step: int | None = None) -> Any:
    """Return torch's writer of event files.

    Parameters
    ----------
    folder
        Where the files are; made if it does not exist.
    purge_step
        TensorBoard forgets what was written before of this step and later ones.

    Raises
    ------
    ImportError
        If TensorBoard is not installed.
    """
    with needs("tensorboard"):
        from torch.utils.tensorboard import SummaryWriter
    untyped: Any = SummaryWriter
    return untyped(str(folder), purge_step=purge_step)
