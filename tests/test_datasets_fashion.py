"""Fashion-MNIST: balanced, in range, and true to the original files' first pictures."""

import numpy as np
import pytest
import torch

from ldm_edu.datasets import FASHION_CLASSES, fashion_mnist, fashion_tensors


@pytest.mark.parametrize(("split", "a_class"), [("train", 800), ("test", 200)])
def test_balanced(split: str, a_class: int) -> None:
    rows, tensors = fashion_mnist(split), fashion_tensors(split)
    assert tensors.labels.bincount().tolist() == [a_class] * 10
    assert tensors.images.shape == (10 * a_class, 1, 28, 28)
    assert tensors.images.min() == -1 and tensors.images.max() == 1
    assert rows["label"][:] == tensors.labels.tolist()
    assert rows["name"][:20] == [FASHION_CLASSES[label] for label in rows["label"][:20]]
    pixels = torch.from_numpy(np.array(rows[7]["image"]))
    torch.testing.assert_close(tensors.images[7, 0], 2 * (pixels / 255) - 1)


def test_the_first_picture_is_the_original_s_first() -> None:
    assert fashion_mnist("train")[0]["name"] == fashion_mnist("test")[0]["name"] == "ankle boot"


def test_no_picture_is_in_both_splits() -> None:
    train, test = ({image.numpy().tobytes() for image in fashion_tensors(split).images} for split in ("train", "test"))
    assert not train & test


def test_unknown_split() -> None:
    with pytest.raises(ValueError, match=r"'val'.*train, test"):
        fashion_mnist("val")  # type: ignore[arg-type]
