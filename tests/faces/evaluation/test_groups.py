"""Error rates by group, against counting pair by pair."""

import json

import numpy as np
import pytest

from hfembed.errors import InputError
from hfembed.faces.evaluation.groups import rates_by_group, read_groups, summary_of_groups
from hfembed.faces.evaluation.lfw import LfwVerification
from hfembed.faces.evaluation.lfw_report import report_lfw
from hfembed.faces.evaluation.verification import wilson_interval


def write_lists(folder, **lists):
    for name, photos in lists.items():
        (folder / f"{name}_names.txt").write_text("\n".join(photos) + "\n")
    return [folder / f"{name}_names.txt" for name in lists]


def test_rates_are_those_of_counting_pair_by_pair(tmp_path):
    generator = np.random.default_rng(0)
    photos = [f"P{number}/P{number}_0001.jpg" for number in range(30)]
    men, women = photos[:14], photos[13:28]  # P13 is in both, P28 and P29 in none
    files = write_lists(tmp_path, male=[photo.split("/")[1] for photo in men], female=women)
    a, b = (generator.choice(photos, 400).tolist() for _ in range(2))
    same, accepted, failed = (generator.random(400) < share for share in (0.5, 0.4, 0.1))
    found = rates_by_group(accepted, same, failed, a, b, read_groups(files, photos))
    assert (
        found["left_out"]["photos_in_several"] == [photos[13]] and found["left_out"]["photos_in_none"] == photos[28:]
    )
    unclear = {photos[13], photos[28], photos[29]}
    assert found["left_out"]["pairs"] == sum(bool({*pair} & unclear) for pair in zip(a, b, strict=True))

    def inside(pair, first, second):
        sides = [set(first) - unclear, set(second) - unclear]
        return (pair[0] in sides[0] and pair[1] in sides[1]) or (pair[1] in sides[0] and pair[0] in sides[1])

    for row, sides in (("male", (men, men)), ("female", (women, women)), ("male, female", (men, women))):
        pairs = [n for n, pair in enumerate(zip(a, b, strict=True)) if inside(pair, *sides)]
        genuine, impostor = ([n for n in pairs if same[n] == kind] for kind in (True, False))
        wrong_genuine = sum(failed[n] or not accepted[n] for n in genuine)
        wrong_impostor = sum(not failed[n] and accepted[n] for n in impostor)
        right = len(pairs) - wrong_genuine - sum(failed[n] or accepted[n] for n in impostor)
        rates = {**found["rows"], **found["pairs_across_groups"]}[row]
        assert (rates["genuine"], rates["impostor"]) == (len(genuine), len(impostor))
        assert rates["fnmr"] == pytest.approx(100 * wrong_genuine / len(genuine))
        assert rates["fmr"] == pytest.approx(100 * wrong_impostor / len(impostor))
        assert rates["accuracy"] == pytest.approx(100 * right / len(pairs))
        low, high = wilson_interval(wrong_impostor, len(impostor))
        assert rates["fmr_interval_95"] == pytest.approx([100 * low, 100 * high])
    assert found["rows"]["all"]["genuine"] == same.sum()


def test_lists_that_cannot_be_used_are_named(tmp_path):
    photos = ["A/A_0001.jpg"]
    (other,) = write_lists(tmp_path, other=["B_0001.jpg"])
    with pytest.raises(InputError, match="other_names.txt names none of the 1 photos"):
        read_groups([other], photos)
    with pytest.raises(InputError, match="nowhere.txt cannot be read"):
        read_groups([tmp_path / "nowhere.txt"], photos)
    (everybody,) = write_lists(tmp_path, all=["A_0001.jpg"])
    with pytest.raises(InputError, match="'all' stands for all pairs"):
        read_groups([everybody], photos)
    (some,) = write_lists(tmp_path, some=["A_0001.jpg"])
    with pytest.raises(InputError, match="two files for the group 'some'"):
        read_groups([some, some], photos)


def test_groups_are_in_the_report_and_the_picture(tiny_lfw, model, processor, tmp_path):
    people = {"low": "ABCD", "high": "EFG"}  # H is in no list
    lists = {
        name: [f"Person_{who}_{n:04d}.jpg" for who in letters for n in (1, 2)] for name, letters in people.items()
    }
    files = write_lists(tmp_path, **lists)
    lfw = LfwVerification(
        tiny_lfw.folder, tiny_lfw.pairs, tiny_lfw.landmarks, num_workers=0, progress=False, groups=files
    )
    report_lfw(lfw, model, processor, tmp_path / "out")
    details = json.loads((tmp_path / "out" / "results.json").read_text())["lfw_view2"]
    assert details["groups"]["rows"]["low"]["genuine"] == 4 and details["groups"]["rows"]["high"]["genuine"] == 3
    assert details["groups"]["rows"]["low"]["impostor"] == 0 and details["groups"]["rows"]["low"]["fmr"] is None
    assert details["groups"]["threshold"] == details["thresholds"]["accuracy"]
    assert details["groups"]["left_out"]["photos_in_none"] == [f"Person_H/Person_H_{n:04d}.jpg" for n in (1, 2)]
    assert (tmp_path / "out" / "groups.png").is_file()
    assert any("left out: 3 pairs, for 2 photos in no group" in line for line in summary_of_groups(details["groups"]))
    norm = details["thresholds"]["norm"]
    assert norm["mean"] > 0 and norm["std"] > 0
