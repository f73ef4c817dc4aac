"""Refuse what a model computes that is no number: NaN and infinity among its logits.

Who reads logits looks at a figure made of them that it needs anyway, a loss or the largest, and asks here only where
that is not finite.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dipc.backends._session import Session
from dipc.errors import NotFinite
from dipc.ir.finite import not_finite
from dipc.ir.program import Program


def check_logits(session: Session, ids: Sequence[int] | Tensor, logits_TV: Tensor) -> None:
    """Raise unless the logits of each token are a distribution's; one may be ruled out, by minus infinity.

    Args:
        session: what made them.
        ids: the tokens of the sequence up to the last of these.
        logits_TV: [T, V].

    Raises:
        NotFinite: NaN or infinity; it names the layer where that begins, if the session can tell.
    """
    if not bool(torch.isfinite(logits_TV.amax(-1)).all()):
        raise broken(session, ids)


def broken(session: Session, ids: Sequence[int] | Tensor) -> NotFinite:
    """Return the error of a session whose logits after these tokens are not finite."""
    program = getattr(session, "program", None)
    if isinstance(program, Program):
        return not_finite(program, ids)
    return NotFinite(
        f"{session.identity.name}: its logits are not finite in {session.identity.backend}, after {len(ids)} tokens; "
        "run the compiled folder with the backend eager, which names the layer"
    )
