"""Reading accuracies out of what scripts print."""

import pytest

from sparse_backend.compare.results import parse_accuracies


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("epoch 3/8  loss 0.4156  test accuracy 0.9378", (3, 0.9378)),
        ("Epoch 12: val_acc=93.8%", (12, 0.938)),
        ("Epoch: [4] train acc 99.1 test acc 97.5", (4, 0.975)),
        ("Epochs 1 | Test Set Accuracy: 87.20%", (1, 0.872)),
        ("epoch 2 accuracy 1.0", (2, 1.0)),
        ("[epoch 7] test_accuracy: 0.5, train_accuracy: 0.75", (7, 0.5)),
        ("epoch 0 acc 0", (0, 0.0)),
    ],
)
def test_line_with_epoch_and_accuracy(line, expected):
    epoch, value = parse_accuracies(line)
    assert (epoch, value) == (expected[0], pytest.approx(expected[1]))


@pytest.mark.parametrize(
    "line",
    [
        "epoch 3 loss 0.5",
        "test accuracy 0.93",
        "accelerated epoch 3",
        "epoch 3 accuracy not measured",
        "epoch 3 accuracy 1234",
        "",
    ],
)
def test_line_without_one_of_them(line):
    assert parse_accuracies(line) is None
