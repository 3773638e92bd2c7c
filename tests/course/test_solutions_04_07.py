"""The trials of notebooks 04 and 07 on their own: each refuses what is wrong in the model, whatever the cases say."""

from __future__ import annotations

import pytest

from labsupport.course import exercises
from labsupport.course.exercises import Wrong

pytestmark = [pytest.mark.slow, pytest.mark.weights]


@pytest.mark.parametrize(
    ("exercise", "answer", "said"),
    [
        ("4.4", lambda before, after: "aten::linear", "not the planted one"),
        ("7.1", lambda shape, repeats, other: False, "8 of the decoder's 8 Tiles stay"),
        ("7.3", lambda shape, perm: True, "no Transpose"),
        ("7.3", lambda shape, perm: False, "logits are others"),
        ("7.4", lambda q, k: q @ k.swapaxes(-1, -2), "times as many numbers"),
        ("7.4", lambda q, k: -(q @ k.swapaxes(-1, -2)), "times as many numbers"),
        ("7.4", lambda q, k: (q[:, :, :, None] * k[:, :, None]).sum(-1), "times as many numbers"),
        ("7.4", lambda q, k: -exercises.find("7.4").solution(q, k), "another one"),
    ],
)
def test_a_wrong_part_is_found_in_the_model(exercise, answer, said):
    with pytest.raises(Wrong, match=said):
        exercises.find(exercise).trial(answer)


def test_permutes_composed_the_wrong_way_round_give_no_graph():
    with pytest.raises(Exception, match=r"Transpose|MatMul|shape|dimension"):
        exercises.find("7.2").trial(lambda first, second: [second[axis] for axis in first])


def test_scores_by_torch_are_right_though_their_reads_are_not_counted():
    torch = pytest.importorskip("torch")

    def scores(q, k):
        rows, columns = torch.from_numpy(q)[:, :, 0].transpose(0, 1), torch.from_numpy(k)[0].mT
        return (rows @ columns).transpose(0, 1)[:, :, None]

    assessment = exercises.assess(exercises.find("7.4"), scores)
    assert assessment.status == "right", assessment.message
    assert "read the keys once" not in assessment.message
