"""Every variant in the zoo: the honest are accepted, the wrong are rejected."""

import random

import pytest
import torch

from modelnew.check.inputs import FileInputs
from modelnew.check.judge import Judge
from modelnew.check.live import LiveCandidate
from modelnew.check.report import CaseResult
from modelnew.check.truth import Reference
from modelnew.problem import Problem

from .zoo import ZOO

SEED = 20


@pytest.fixture(scope="module")
def judges(tmp_path_factory) -> dict[str, Judge]:
    """A judge for every reference, made when first asked for."""

    class Judges(dict):
        def __missing__(self, name: str) -> Judge:
            path = tmp_path_factory.mktemp("zoo") / "reference.py"
            path.write_text(ZOO[name].reference())
            problem = Problem.load(path)
            reference = Reference(
                lambda dtype: problem.model(dtype=dtype), device=torch.device("cpu"), dtype=None, seed=SEED
            )
            self[name] = Judge(reference, FileInputs(problem, None), seed=SEED, progress=lambda text: None)
            return self[name]

    return Judges()


def results(judge: Judge, name: str, forward: str, change=lambda module: module) -> list[CaseResult]:
    scope = {"__name__": "candidate"}
    exec(ZOO[name].candidate(forward), scope)
    torch.manual_seed(0)
    return list(judge.judge(LiveCandidate(change(scope["ModelNew"]()), torch.device("cpu"))))


HONEST = [(name, variant) for name, zoo in ZOO.items() for variant in ("itself", *zoo.honest)]
WRONG = [(name, variant) for name, zoo in ZOO.items() for variant in zoo.wrong]


def test_the_zoo_is_large_enough():
    assert len(HONEST) - len(ZOO) >= 40 and len(WRONG) >= 40
    assert sum(bool(zoo.honest) for zoo in ZOO.values()) >= 12 and len(ZOO) >= 20


@pytest.mark.parametrize(("name", "variant"), HONEST, ids=lambda text: text.replace(" ", "-"))
def test_honest_variants_are_accepted(judges, name, variant):
    forward = ZOO[name].forward if variant == "itself" else ZOO[name].honest[variant]
    bad = [case for case in results(judges[name], name, forward) if case.outcome == "rejected"]
    assert not bad, [(case.name, case.reason) for case in bad]


@pytest.mark.parametrize(("name", "variant"), WRONG, ids=lambda text: text.replace(" ", "-"))
def test_wrong_variants_are_rejected(judges, name, variant):
    found = results(judges[name], name, ZOO[name].wrong[variant])
    assert any(case.outcome == "rejected" for case in found)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_verdict_does_not_depend_on_the_seed(judges, seed):
    """Other seeds, other inputs, other noise: one honest and one nearly honest variant keep their verdicts."""
    judge = judges["softmax"]
    again = Judge(judge.reference, judge.source, seed=random.Random(seed).getrandbits(40), progress=lambda text: None)
    good = results(again, "softmax", ZOO["softmax"].honest["sequential sum"])
    bad = results(again, "softmax", ZOO["softmax"].wrong["no maximum"])
    assert not any(case.outcome == "rejected" for case in good)
    assert any(case.outcome == "rejected" for case in bad)
