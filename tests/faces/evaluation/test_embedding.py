"""From files to embeddings: order, failures, and nothing that would disturb a training run."""

import numpy as np
import pytest
import torch

from hfembed.errors import InputError
from hfembed.faces.evaluation.embedding import FaceFile, align_faces, embed_aligned, embed_faces


@pytest.fixture
def faces(tiny_lfw):
    files = sorted(tiny_lfw.folder.rglob("*.jpg"))[:5]
    broken = FaceFile("broken.jpg", files[0].read_bytes()[:200])
    return [
        FaceFile(files[0].name, files[0]),
        FaceFile(files[1].name, files[1].read_bytes(), [[20, 24], [44, 24], [32, 36], [24, 48], [40, 48]]),
        broken,
        FaceFile("text.jpg", b"not an image at all"),
        FaceFile(files[2].name, files[2]),
        FaceFile("missing.jpg", tiny_lfw.folder / "missing.jpg"),
    ]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_embeddings_keep_the_order_and_failures_are_named(model, processor, faces, num_workers):
    embeddings, failures = embed_faces(model, processor, faces, 2, num_workers, progress=False)
    assert sorted(failures) == ["broken.jpg", "missing.jpg", "text.jpg"]
    for number, face in enumerate(faces):
        if face.file in failures:
            assert np.isnan(embeddings[number]).all()
        else:
            crop = torch.from_numpy(processor.align(face.image, face.landmarks)).permute(2, 0, 1)[None]
            np.testing.assert_allclose(embeddings[number], model.embed(processor.normalize(crop))[0], atol=1e-5)


def test_aligning_first_gives_the_same_embeddings(model, processor, faces):
    crops = align_faces(processor, faces, 2, 0, progress=False)
    embeddings, failures = embed_faces(model, processor, faces, 4, 0, progress=False)
    usable = ~np.isnan(embeddings[:, 0])
    np.testing.assert_allclose(
        embed_aligned(model, processor, crops.pixels, 3, progress=False)[usable], embeddings[usable], atol=1e-5
    )
    assert set(crops.failures) == set(failures)


def test_neither_random_numbers_nor_training_mode_are_touched(model, processor, faces):
    model.train()
    try:
        before = torch.get_rng_state()
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        embed_faces(model, processor, faces, 2, 0, progress=False)
        assert torch.equal(torch.get_rng_state(), before)
        assert model.training and all(torch.equal(buffers[name], buffer) for name, buffer in model.named_buffers())
    finally:
        model.eval()


def test_an_embedding_that_is_not_finite_is_an_input_error(model, processor, faces):
    weight = next(model.parameters())
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.fill_(float("nan"))
        crops = align_faces(processor, faces, 2, 0, progress=False)
        for embed in (
            lambda: embed_aligned(model, processor, crops.pixels, progress=False),
            lambda: embed_faces(model, processor, faces, 2, 0, progress=False),
        ):
            with pytest.raises(InputError, match="not finite") as error:
                embed()
            assert "\n" not in str(error.value)
    finally:
        with torch.no_grad():
            weight.copy_(kept)


def test_nothing_usable_is_an_input_error(model, processor):
    with pytest.raises(InputError, match="no images"):
        embed_faces(model, processor, [], num_workers=0, progress=False)
    with pytest.raises(InputError, match="none of the 1 images could be used; the first, text.jpg: "):
        align_faces(processor, [FaceFile("text.jpg", b"text")], num_workers=0, progress=False)
