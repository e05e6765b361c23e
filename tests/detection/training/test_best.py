"""Which evaluation was the best, and when there is no better one for too long."""

from __future__ import annotations

import pytest

from backbones.common.errors import UserError
from detection.training.best import Best


def test_the_highest_value_is_the_best_and_the_first_of_equals() -> None:
    best = Best("AP", patience=3)
    better = [best.update(step, {"AP": value}) for step, value in ((1, 0.2), (2, 0.1), (3, 0.3), (4, 0.3), (5, 0.25))]
    assert better == [True, False, True, False, False]
    assert (best.step, best.value, best.since, best.is_exhausted) == (3, 0.3, 2, False)
    assert str(best) == "the best by AP (0.3000)"
    best.update(6, {"AP": 0.0})
    assert best.is_exhausted


def test_a_figure_that_is_not_a_number_is_never_the_best() -> None:
    best = Best("AP", patience=1)
    assert not best.update(1, {"AP": float("nan")})
    assert (best.step, best.is_exhausted, str(best)) == (0, True, "the last")


def test_without_a_figure_or_patience_nothing_is_kept_and_nothing_ends() -> None:
    nothing, patient = Best(), Best("AP")
    for step in range(1, 100):
        assert not nothing.update(step, {"AP": 1.0})
        patient.update(step, {"AP": 0.5})
    assert not nothing.is_exhausted
    assert not patient.is_exhausted
    with pytest.raises(UserError, match='no figure "AP50" to keep the best by: it has AP, AR'):
        Best("AP50").update(1, {"AP": 0.5, "AR": 0.5})


def test_it_goes_on_from_its_state_but_not_from_that_of_another_figure() -> None:
    best = Best("AP", patience=2)
    best.update(1, {"AP": 0.5})
    best.update(2, {"AP": 0.4})
    again, other = Best("AP", patience=1), Best("AP50")
    again.load_state_dict(best.state_dict())
    other.load_state_dict(best.state_dict())
    assert (again.step, again.value, again.since, again.is_exhausted) == (1, 0.5, 1, True)
    assert (other.step, other.value) == (0, None)
    other.load_state_dict({"AP": 0.5})  # of an earlier version
    assert other.step == 0
    with pytest.raises(TypeError):
        again.load_state_dict({**best.state_dict(), "since": -1})
