"""Learning rates go up, stay, and come down as a stage says."""

import pytest

from vlm_fo1.train.config import ScheduleConfig, StageConfig, TrainRule
from vlm_fo1.train.schedule import lr_multiplier


def test_the_learning_rate_warms_up_then_follows_its_schedule():
    rule = TrainRule(pattern="*", lr=1e-3)

    def rates(**schedule):
        each = StageConfig(
            name="one", train=(rule,), steps=100, schedule=ScheduleConfig(**schedule)
        )
        return [lr_multiplier(each, step) for step in range(100)]

    cosine = rates(warmup_steps=10, min_lr_ratio=0.1)
    assert cosine[0] == pytest.approx(0.1)
    assert cosine[9] == cosine[10] == 1
    assert cosine[55] == pytest.approx(0.55)
    assert 0.1 < cosine[99] < 0.11
    assert cosine[10:] == sorted(cosine[10:], reverse=True)
    assert set(rates(name="constant")) == {1.0}
    linear = rates(name="linear", warmup_steps=10, decay_steps=40)
    assert set(linear[10:61]) == {1.0}
    assert linear[80] == pytest.approx(0.5)
    assert linear[99] == pytest.approx(1 / 40)
