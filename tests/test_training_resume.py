"""A resumed run ends with the weights of the unbroken one, bit for bit: every trainer, with its real networks."""

from pathlib import Path

import pytest
import torch
from trainers import TRAINERS, store_of, whole_state, write_home

from ldm_edu.training.loop import train


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_home(tmp_path_factory.mktemp("home"))


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINERS)
def test_a_resumed_run_equals_the_unbroken_one(home: Path, tmp_path: Path, name: str) -> None:
    torch.set_num_threads(1)  # the sums of several threads need not be the same twice
    begin, folder, store = TRAINERS[name], tmp_path / "state", store_of(name)
    unbroken = begin(home, tmp_path / "out").task
    list(train(unbroken, steps=6, seed=5))
    for record in train(begin(home, tmp_path / "out").task, steps=6, seed=5, folder=folder, save_every=2, store=store):
        if record.step == 3:  # step 2 is saved
            break
    resumed = begin(home, tmp_path / "out").task
    assert [r.step for r in train(resumed, steps=6, seed=5, folder=folder, store=store)] == [3, 4, 5, 6]
    wanted, got = whole_state(unbroken), whole_state(resumed)
    assert got.keys() == wanted.keys()
    assert [key for key in wanted if not torch.equal(got[key], wanted[key])] == []
    for optimizer in resumed.optimizers.values():  # fused AdamW on a CPU pairs weight and moment by place in memory
        for weight, state in optimizer.state.items():
            assert all(state[moment].stride() == weight.stride() for moment in ("exp_avg", "exp_avg_sq"))
