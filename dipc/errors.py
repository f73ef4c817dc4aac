"""Errors and warnings that a user can meet: the message says what, where and what to do, an error has an exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DipcError(Exception):
    """Base of every error a user can cause; the command line prints its one line and exits with `exit_code`."""

    exit_code = 1


class DipcWarning(UserWarning):
    """Something that can be used as it is and is probably not what was meant; the command line prints its one line."""


class UsageError(DipcError):
    """An argument or an option is wrong: a density outside (0, 1], a prompt longer than the context."""

    exit_code = 2


class UnknownName(UsageError):
    """No pass, policy, operator, backend or device of that name."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        guess = f"; did you mean {close[0]!r}?" if close else ""
        super().__init__(f"no {kind} named {name!r}{guess} (known: {', '.join(names)})")


class CalibrationNeeded(UsageError):
    """A pass reads what was measured of the model, and was given no file of it."""

    def __init__(self, asker: object) -> None:
        super().__init__(
            f"{asker} needs a calibration: run `dipc calibrate MODEL --text TEXT -o FILE` and add calibration=FILE"
        )


class UnsupportedModel(DipcError):
    """A model dipc cannot capture, or a pass that matched nothing in it."""

    exit_code = 3


class VerificationFailed(DipcError):
    """A pass broke the graph, or changed its numbers by more than it may."""

    exit_code = 4


class NotFinite(VerificationFailed):
    """A model computes NaN or infinity, so that it has no figures; the message names where first."""


class BadFile(DipcError):
    """A recipe, hardware, trace or artifact file that cannot be used as it is."""

    exit_code = 5


class MissingDependency(DipcError):
    """An optional dependency is absent; the message names the extra that brings it."""

    exit_code = 6
