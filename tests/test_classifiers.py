"""Classifiers on disk: what is saved comes back, and what does not fit is refused with a remedy."""

import json
from pathlib import Path

import pytest
import torch

from ldm_edu.classifiers import CONFIG_FILE, load_classifier, save_classifier
from ldm_edu.config import ClassifierConfig
from ldm_edu.models.classifier import Classifier
from ldm_edu.weights.errors import CheckpointError

CONFIG = ClassifierConfig(concepts=3, styles=2, channels=8, mults=(1, 2), groups=4)
CONCEPTS, STYLES = ["apple", "fish", "é 🍏"], ["3d", "flat"]


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Classifier]:
    model = Classifier(CONFIG)
    save_classifier(tmp_path / "judge", model, CONCEPTS, STYLES, trained_on="toys", dtype=torch.float32)
    return tmp_path / "judge", model


def test_a_saved_classifier_answers_as_before(saved: tuple[Path, Classifier]) -> None:
    folder, model = saved
    loaded = load_classifier(folder)
    images = torch.randn(2, 3, 16, 16)
    for got, wanted in zip(loaded.model(images), model.eval()(images), strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=0)
    assert (loaded.concepts, loaded.styles, loaded.trained_on) == (tuple(CONCEPTS), tuple(STYLES), "toys")
    assert not any(p.requires_grad for p in loaded.model.parameters())


def test_weights_are_float32_after_bfloat16_on_disk(tmp_path: Path) -> None:
    model = Classifier(CONFIG)
    save_classifier(tmp_path, model, CONCEPTS, STYLES)
    weight = load_classifier(tmp_path).model.concept.weight
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, model.concept.weight.bfloat16().float(), rtol=0, atol=0)


def test_a_classifier_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDM_EDU_DATA", str(tmp_path))
    save_classifier(tmp_path / "checkpoints" / "judge", Classifier(CONFIG), CONCEPTS, STYLES)
    assert load_classifier("judge").styles == tuple(STYLES)
    with pytest.raises(CheckpointError, match="train classifier"):
        load_classifier("another")


def test_words_must_fit_the_classes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="as many words"):
        save_classifier(tmp_path / "x", Classifier(CONFIG), CONCEPTS[:2], STYLES)
    assert not (tmp_path / "x").exists()


def test_damaged_weights_are_refused(saved: tuple[Path, Classifier]) -> None:
    weights = saved[0] / "classifier.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cut short"):
        load_classifier(saved[0])


def test_weights_of_another_size_are_refused(saved: tuple[Path, Classifier]) -> None:
    config = json.loads((saved[0] / CONFIG_FILE).read_text())
    config["config"]["channels"] = 16
    (saved[0] / CONFIG_FILE).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="has shape"):
        load_classifier(saved[0])


@pytest.mark.parametrize(
    "change", [{"kind": "latent-diffusion"}, {"format": "ldm-edu/9"}, {"concepts": None}, {"config": {"a": 1}}]
)
def test_another_kind_of_folder_is_refused(saved: tuple[Path, Classifier], change: dict[str, object]) -> None:
    config = json.loads((saved[0] / CONFIG_FILE).read_text()) | change
    config = {key: value for key, value in config.items() if value is not None}
    (saved[0] / CONFIG_FILE).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="describe"):
        load_classifier(saved[0])
