"""The outcome of each input of a run: as plain containers, as text, and as an exit status."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Outcome", "as_text", "failures", "summarise"]

Status = Literal["restored", "planned", "failed", "skipped"]

_SHOWN = 3
"""The number of skipped files that are named for each reason."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of an input; its paths are relative to the folders of inputs and results.

    Attributes:
        input: the file, or the folder and the name of a series.
        status: restored; planned, in a dry run; failed; or skipped, since it is no input of the bundle.
        kind: its format, or None for no input.
        files: its files.
        outputs: its results.
        reason: why it failed or was skipped.
    """

    input: str
    status: Status
    kind: str | None
    files: Sequence[str]
    outputs: Sequence[str] = ()
    reason: str = ""


def summarise(outcomes: Sequence[Outcome], run: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of the run, then counts by status and all inputs.

    Example:
        >>> summarise([Outcome("a.nii", "failed", "nifti", ("a.nii",), reason="empty")], {})["counts"]
        {'failed': 1}
    """
    counts = Counter(outcome.status for outcome in outcomes)
    inputs = [{key: value for key, value in asdict(outcome).items() if value} for outcome in outcomes]
    return {**run, "counts": dict(sorted(counts.items())), "inputs": inputs}


def failures(outcomes: Sequence[Outcome]) -> str:
    """One line on the inputs that failed; empty if none did.

    Example:
        >>> failures([Outcome("a.nii", "failed", "nifti", ("a.nii",), reason="empty")])
        '1 of 1 inputs failed: a.nii: empty'
    """
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if not failed:
        return ""
    count = sum(outcome.status != "skipped" for outcome in outcomes)
    first = f"{failed[0].input}: {failed[0].reason}"
    return f"{len(failed)} of {count} inputs failed" + (f": {first}" if len(failed) == 1 else f"; the first: {first}")


def as_text(outcomes: Sequence[Outcome]) -> str:
    """A line for each input that was not restored; those that were skipped together by their reason; and the counts.

    Example:
        >>> print(as_text([Outcome("a.nii", "planned", "nifti", ("a.nii",), ("a_*",))]))
        planned   a.nii -> a_*
        1 planned
    """
    lines = []
    skipped: dict[str, list[str]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.status == "skipped":
            skipped[outcome.reason].append(outcome.input)
        elif outcome.status != "restored":
            arrow = f": {outcome.reason}" if outcome.reason else f" -> {', '.join(outcome.outputs)}"
            lines.append(f"{outcome.status:<9} {outcome.input}{arrow}")
    for reason, names in sorted(skipped.items()):
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        lines.append(f"{'skipped':<9} {', '.join(names[:_SHOWN])}{more}: {reason}")
    counts = Counter(outcome.status for outcome in outcomes)
    return "\n".join([*lines, ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))])
