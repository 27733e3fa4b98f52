"""From the results of the cases to the report."""

from __future__ import annotations

import time
from collections.abc import Mapping

from modelnew.check.judge import Judge
from modelnew.check.report import CaseResult, Report, headline
from modelnew.targets import dtype_text


def conclude(
    judge: Judge,
    results: tuple[CaseResult, ...],
    *,
    candidate: str,
    reference: str,
    started: float,
    sizes: Mapping[str, int],
    notes: tuple[str, ...],
    kernels: Mapping[str, int],
) -> Report:
    """started: time.monotonic() at the beginning. kernels: launches by name, with 0 for those that never ran."""
    accepted, undecidable = _decide(judge, results)
    accuracy = judge.accuracy_class(results)
    judged = any(case.r > 0 for case in results)
    dropped, unseen = judge.unseen if judged else (0, [])
    return Report(
        candidate=candidate,
        reference=reference,
        accepted=accepted,
        headline=headline(results, accepted, undecidable, accuracy, idle=bool(kernels) and not any(kernels.values())),
        cases=results,
        accuracy_class=accuracy,
        seed=judge.seed,
        device=str(judge.reference.device),
        dtype=dtype_text(judge.reference.dtype),
        sizes=dict(sizes),
        notes=(*notes, *judge.reference.notes, *_kernel_notes(kernels)),
        kernels=dict(kernels),
        ops_left_out=dropped,
        ops_unseen=tuple(unseen),
        seconds=time.monotonic() - started,
    )


def _decide(judge: Judge, results: tuple[CaseResult, ...]) -> tuple[bool | None, str]:
    """The verdict, and why there is none."""
    if judge.unsteady:
        return None, judge.unsteady
    if any(case.outcome == "rejected" for case in results):
        return False, ""
    if judge.vacuous:
        return None, judge.vacuous
    accepted = [case for case in results if case.outcome == "accepted"]
    undecided = [case for case in results if case.outcome == "undecided"]
    if len(undecided) >= max(1, len(accepted)):
        return None, f"{undecided[0].reason} (case {undecided[0].name!r})"
    if not accepted:
        return None, results[0].reason if results else "there was no case to judge"
    return True, ""


def _kernel_notes(kernels: Mapping[str, int]) -> tuple[str, ...]:
    idle = [name for name, count in kernels.items() if not count]
    return (f"kernels that ran in no case: {', '.join(idle)}",) if idle else ()
