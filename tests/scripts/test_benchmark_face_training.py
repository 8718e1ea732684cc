"""The benchmark of face training: both loops train, and its figures are those of the steps that it says."""

import argparse
import time

import pytest
import torch
from torch import nn

from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel
from scripts.benchmark_face_training import Clock, measure


def test_the_clock_leaves_out_the_warm_up_and_counts_waiting(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = Clock(warm_up=2, steps=3)

    def batches():
        for number in range(6):
            now[0] += 5 if number < 2 else 0.02
            yield number

    for _ in clock.waiting_for(batches()):
        clock.begin_step()
        now[0] += 0.03
    figures = clock.figures(batch_size=10)
    assert figures["images_per_second"] == pytest.approx(200) and figures["data_wait"] == pytest.approx(0.4)


@pytest.mark.parametrize("loop", ["hfembed", "plain"])
@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_both_loops_train(loop, rate, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    options = argparse.Namespace(
        classes=40, sample_rate=rate, batch_size=4, steps=1, warm_up=1, mixed_precision="no", compile=False,
        no_channels_last=False, workers=0, threads=1, shards="", peak_tflops=1.0,
    )  # fmt: skip
    figures = measure(options, "mobilefacenet", loop)
    assert (figures["trunk"], figures["loop"], figures["classes"]) == ("mobilefacenet", loop, 40)
    assert figures["images_per_second"] > 0 and 0 <= figures["data_wait"] < 1
    model = FaceEmbedderModel(FaceEmbedderConfig(trunk="mobilefacenet"))
    products = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(
                lambda layer, _, output: products.append(layer.weight[0].numel() * output[0].numel())
            )
    model.eval()(torch.rand(1, 3, 112, 112))
    assert figures["gflop_per_image"] * 1e9 == pytest.approx(6 * (sum(products) + 512 * 40 * rate))
