"""The measuring chain against a known number: a converted public network on the real View 2."""

import json
import sys

import pytest

from hfembed.cli import main


@pytest.mark.slow
@pytest.mark.data
def test_converted_network_scores_what_it_is_known_to(research_data, tmp_path, monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["hfembed", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0

    model, lfw = tmp_path / "model", research_data / "lfw"
    run("convert", "mobilefacenet", research_data / "weights" / "mobilefacenet_xiaoccer" / "068.ckpt", model)
    run(
        *("evaluate", "lfw", model, "--images", lfw / "lfw-a.tgz", "--pairs", lfw / "pairs.txt"),
        *("--landmarks", lfw / "landmarks.json", "--output", tmp_path),
    )
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["lfw_view2_accuracy"] == pytest.approx(98.50, abs=0.10)
    assert results["lfw_view2_standard_error"] == pytest.approx(0.17, abs=0.05)
    assert results["lfw_view2"]["pairs"]["genuine"] == results["lfw_view2"]["pairs"]["impostor"] == 3000
