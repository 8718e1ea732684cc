import pytest
import torch
from PIL import Image

from hfembed.errors import InputError
from hfembed.images.image_embedders import load_image_embedder
from hfembed.images.latent_statistics import LatentStatistics, encode_images
from hfembed.photos import find_photos, open_photo
from tests.images.tiny_autoencoder import save_tiny_autoencoder, smooth_images


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number, image in enumerate(smooth_images(70)):
        Image.fromarray((255 * image[0]).byte().numpy()).save(folder / f"{number:02d}.png")
    return find_photos(folder).photos


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("autoencoder")
    model = save_tiny_autoencoder(folder)
    LatentStatistics.fit(model, encode_images(model, smooth_images(200, seed=1)), 1).save(folder)
    return folder


def test_latents_are_whitened_and_blind_to_mirroring(autoencoder, photos):
    embed = load_image_embedder(str(autoencoder), "cpu")
    vectors = embed(photos)
    assert vectors.shape == (70, 32) and vectors.dtype == torch.float32
    many = embed.embed_images(smooth_images(200, seed=1))
    assert (many**2).mean() < 1.2, "averaged with the mirror image, no direction varies more than before"
    image = smooth_images(1, seed=2)
    assert torch.allclose(embed.embed_images(image), embed.embed_images(image.flip(3)), atol=1e-3)
    alone = torch.cat([embed([photo.read_bytes()]) for photo in photos[:3]])
    assert torch.allclose(alone, vectors[:3], atol=1e-4)


def test_the_layer_below_a_timm_classifier(photos, tmp_path):
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    network = timm.create_model("test_resnet.r160_in1k", pretrained=False).eval()
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    embed = load_image_embedder(f"timm/test_resnet.r160_in1k={tmp_path / 'weights.safetensors'}", "cpu")
    vectors = embed(photos[:2])
    pixels = torch.stack([embed.transform(open_photo(photo)) for photo in photos[:2]])
    with torch.no_grad():
        expected = network.forward_head(network.forward_features(pixels), pre_logits=True)
    assert torch.allclose(vectors, expected, atol=1e-5)
    assert load_image_embedder("timm/test_resnet.r160_in1k=random", "cpu")(photos[:1]).shape == vectors[:1].shape


def test_what_cannot_be_loaded_is_named(photos, tmp_path):
    save_tiny_autoencoder(tmp_path / "bare")
    for name, said in [
        ("timm/no_such_net=random", "no_such_net"),
        (f"timm/test_resnet.r160_in1k={tmp_path}/no.safetensors", "test_resnet"),
        (str(tmp_path / "nowhere"), "nowhere"),
        (str(tmp_path / "bare"), "fit-latents"),
    ]:
        with pytest.raises(InputError, match=said):
            load_image_embedder(name, "cpu")
