"""Commands for autoencoders: compress, clean and morph images, and make new ones."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    import torch

app = typer.Typer()

Model = Annotated[str, typer.Argument(help="Checkpoint folder or Hub id of an autoencoder.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, ...; auto takes the accelerator.")]
Scale = Annotated[int, typer.Option(min=1, help="Repeat every pixel so many times.")]


@app.command("fit-latents")
def fit_latents(
    model: Annotated[str, typer.Argument(help="Checkpoint folder of an autoencoder.")],
    images: Annotated[str, typer.Option(help="What it was trained on: a folder per person, its archive, a Hub id.")],
    mixture_components: Annotated[int, typer.Option(min=1, help="Gaussians of the mixture to sample from.")] = 8,
    held_out_share: Annotated[float, typer.Option(help="Leave out this share of the people, as training did.")] = 0.1,
    split_seed: Annotated[int, typer.Option(help="Of that split.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the mixture.")] = 0,
    max_images: Annotated[int, typer.Option(min=0, help="At most so many, spread evenly; 0 = all.")] = 0,
    device: Device = "auto",
) -> None:
    """Measure how latents are spread over images, for sample, walk and compress; written into the checkpoint."""
    from hfembed.checkpoint.loading import load_autoencoder
    from hfembed.faces.data.aligned_faces import AlignedFaces
    from hfembed.faces.data.faces import load_faces
    from hfembed.faces.data.splits import split_people
    from hfembed.images.latent_statistics import LatentStatistics, encode_images

    autoencoder, processor = load_autoencoder(model, device)
    faces = load_faces(images)
    if held_out_share:
        faces, _ = split_people(faces, held_out_share, split_seed)
    pixels = AlignedFaces(faces, processor).pixels(max_images or None)
    latents = encode_images(autoencoder, processor.normalize(pixels))
    statistics = LatentStatistics.fit(autoencoder, latents, mixture_components, seed)
    print(f"{len(latents)} images, {latents[0].numel()} numbers each: {statistics.save(model)}")


@app.command("morph")
def morph(
    model: Model,
    a: Annotated[Path, typer.Argument(help="Photo to start from.")],
    b: Annotated[Path, typer.Argument(help="Photo to end with.")],
    output: Annotated[Path, typer.Argument(help=".gif or .mp4 for a film, .png for a row of pictures.")],
    steps: Annotated[int, typer.Option(min=2, help="Pictures, the two ends included.")] = 24,
    path: Annotated[Literal["linear", "spherical"], typer.Option(help="Straight, or on a circle around zero.")] = (
        "linear"
    ),
    frames_per_second: Annotated[int, typer.Option(min=1)] = 15,
    scale: Scale = 4,
    device: Device = "auto",
) -> None:
    """Turn one face into another."""
    from hfembed.checkpoint.loading import load_autoencoder
    from hfembed.errors import input_errors
    from hfembed.images import morphing

    autoencoder, processor = load_autoencoder(model, device)
    with input_errors():
        start, end = processor([a, b]).pixel_values
        frames = morphing.morph(autoencoder, start, end, steps, spherical=path == "spherical")
    _write(frames, output, frames_per_second, scale)


@app.command("walk")
def walk(
    model: Model,
    photo: Annotated[Path, typer.Argument(help="Photo to start from.")],
    output: Annotated[Path, typer.Argument(help=".gif or .mp4 for a film, .png for a row of pictures.")],
    direction: Annotated[int, typer.Option(min=0, help="Principal direction of the latents, from 0.")] = 0,
    with_: Annotated[Path | None, typer.Option("--with", help="Folder of photos with an attribute.")] = None,
    without: Annotated[Path | None, typer.Option(help="Folder of photos without it.")] = None,
    reach: Annotated[float, typer.Option(help="How far to go to either side, in directions.")] = 2.0,
    steps: Annotated[int, typer.Option(min=2, help="Pictures.")] = 9,
    frames_per_second: Annotated[int, typer.Option(min=1)] = 8,
    scale: Scale = 4,
    device: Device = "auto",
) -> None:
    """Change a face along a direction: a principal one, or from photos without an attribute to photos with it."""
    import torch

    from hfembed.checkpoint.loading import load_autoencoder
    from hfembed.errors import InputError, input_errors
    from hfembed.images import latent_statistics, morphing
    from hfembed.photos import find_photos

    autoencoder, processor = load_autoencoder(model, device)
    if (with_ is None) != (without is None):
        raise InputError("an attribute's direction needs both --with and --without")
    with input_errors():
        image = processor(photo).pixel_values[0]
        if with_ is not None:
            groups = [processor(find_photos(folder).photos).pixel_values for folder in (without, with_)]
            latents = latent_statistics.encode_images(autoencoder, torch.cat(groups))
            has_attribute = torch.arange(len(latents)) >= len(groups[0])
            step = latent_statistics.attribute_direction(latents, has_attribute)
        else:
            step = latent_statistics.LatentStatistics.load(model).direction(direction)
        frames = morphing.walk(autoencoder, image, step, reach, steps)
    _write(frames, output, frames_per_second, scale)


@app.command("sample")
def sample(
    model: Model,
    output: Annotated[Path, typer.Argument(help="The picture to write, a grid of new images.")],
    count: Annotated[int, typer.Option(min=1, help="New images.")] = 36,
    method: Annotated[
        Literal["mixture", "gaussian", "prior"],
        typer.Option(help="Gaussian mixture or one Gaussian fitted to latents, or a variational model's prior."),
    ] = "mixture",
    seed: Annotated[int, typer.Option(help="Another seed, other images.")] = 0,
    scale: Scale = 2,
    device: Device = "auto",
) -> None:
    """Make new images from random latents."""
    from hfembed.checkpoint.loading import load_autoencoder
    from hfembed.images.films import picture_grid, to_pictures, write_picture
    from hfembed.images.latent_statistics import LatentStatistics, decode_latents, sample_prior

    autoencoder, _ = load_autoencoder(model, device)
    if method == "prior":
        latents = sample_prior(autoencoder, count, seed)
    else:
        statistics = LatentStatistics.load(model)
        draw = statistics.sample_mixture if method == "mixture" else statistics.sample_gaussian
        latents = draw(count, seed)
    pictures = to_pictures(decode_latents(autoencoder, latents))
    columns = max(1, round(count**0.5))
    rows = [pictures[start : start + columns] for start in range(0, count, columns)]
    write_picture(picture_grid(rows), output, scale)
    print(f"written: {output}")


@app.command("compress")
def compress(
    model: Model,
    photo: Annotated[Path, typer.Argument(help="Photo of a face.")],
    output: Annotated[Path, typer.Argument(help="The file to write.")],
    quality: Annotated[int, typer.Option(min=0, max=40, help="Every 2 halve the rounding.")] = 10,
    device: Device = "auto",
) -> None:
    """Keep a face in a few dozen bytes, for the same model to decompress."""
    from hfembed.atomic import atomic_write
    from hfembed.checkpoint.loading import load_autoencoder
    from hfembed.errors import input_errors
    from hfembed.images.compression import LatentCodec
    from hfembed.images.latent_statistics import LatentStatistics

    autoencoder, processor = load_autoencoder(model, device)
    with input_errors():
        image = processor(photo).pixel_values[0]
        content = LatentCodec(autoencoder, LatentStatistics.load(model)).compress(image, quality)
    with atomic_write(output) as temporary:
        temporary.write_bytes(content)
    print(f"{output}: {len(content)} bytes for {image.shape[2]} x {image.shape[1]} pixels")


@app.command("decompress")
def decompress(
    model: Model,
    file: Annotated[Path, typer.Argument(help="What hfembed compress wrote.")],
    output: Annotated[Path, typer.Argument(help="The picture to write: .png, .jpg, .webp.")],
    device: Device = "auto",
) -> None:
    """Make a compressed face visible again."""
    from hfembed.checkpoint.loading import load_autoencoder
    from hfembed.errors import InputError
    from hfembed.images.compression import LatentCodec
    from hfembed.images.films import to_pictures, write_picture
    from hfembed.images.latent_statistics import LatentStatistics

    autoencoder, _ = load_autoencoder(model, device)
    codec = LatentCodec(autoencoder, LatentStatistics.load(model))
    try:
        image = codec.decompress(file.read_bytes())
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    write_picture(to_pictures(image[None])[0], output)
    print(f"written: {output}")


@app.command("similar")
def similar(
    model: Annotated[
        str, typer.Argument(help="Autoencoder or face embedder, folder or Hub id; or timm/<architecture>[=weights].")
    ],
    folder: Annotated[Path, typer.Argument(help="Folder of photos to search, with folders inside.")],
    photo: Annotated[Path, typer.Argument(help="Photo to look for.")],
    sheet: Annotated[Path | None, typer.Option(help="Picture to write: the photo and its nearest.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many.")] = 8,
    device: Device = "auto",
) -> None:
    """Find the photos most like a photo."""
    import numpy as np
    from PIL import ImageOps

    from hfembed.images.films import picture_grid, write_picture
    from hfembed.images.image_embedders import load_image_embedder
    from hfembed.index.embedding_index import EmbeddingIndex
    from hfembed.photos import find_photos, open_photo

    embed = load_image_embedder(model, device)
    files = [file for file in find_photos(folder).photos if not file.samefile(photo)]
    index = EmbeddingIndex(model=model)
    index.add(embed(files), [file.parent.name for file in files], files)
    scores, rows = index.nearest(embed([photo]), top)
    for score, row in zip(scores[0], rows[0], strict=True):
        print(f"{score:.3f}  {files[row]}")
    if sheet is not None:
        shown = [photo, *(files[row] for row in rows[0])]
        thumbnails = [np.array(ImageOps.fit(open_photo(file), (128, 128))) for file in shown]
        write_picture(picture_grid([np.stack(thumbnails)]), sheet)
        print(f"written: {sheet}")


@app.command("denoise")
def denoise(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or Hub id of a denoising autoencoder.")],
    photo: Annotated[Path, typer.Argument(help="A photo of any size.")],
    output: Annotated[Path, typer.Argument(help="The picture to write: .png, .jpg, .webp.")],
    overlap: Annotated[int | None, typer.Option(min=0, help="Pixels shared by tiles; default: a quarter.")] = None,
    device: Device = "auto",
) -> None:
    """Remove the noise from a photo."""
    from hfembed.checkpoint.loading import load_autoencoder
    from hfembed.images import restoration

    autoencoder, _ = load_autoencoder(model, device)
    _write_photo(restoration.denoise(autoencoder, _read_photo(photo), overlap), output)


@app.command("inpaint")
def inpaint(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or Hub id of an autoencoder that fills holes.")],
    photo: Annotated[Path, typer.Argument(help="A photo of any size.")],
    mask: Annotated[Path, typer.Argument(help="A picture of the same size, white where the photo is to be filled.")],
    output: Annotated[Path, typer.Argument(help="The picture to write: .png, .jpg, .webp.")],
    overlap: Annotated[int | None, typer.Option(min=0, help="Pixels shared by tiles; default: a quarter.")] = None,
    device: Device = "auto",
) -> None:
    """Fill a hole in a photo."""
    from hfembed.checkpoint.loading import load_autoencoder
    from hfembed.images import restoration

    autoencoder, _ = load_autoencoder(model, device)
    hole = _read_photo(mask).mean(0) > 0.5
    _write_photo(restoration.inpaint(autoencoder, _read_photo(photo), hole, overlap=overlap), output)


def _read_photo(file: Path) -> "torch.Tensor":
    """A photo, upright, at its own size: (1 or 3, H, W) float32 in [0, 1]."""
    import numpy as np
    import torch

    from hfembed.photos import open_photo

    pixels = np.array(open_photo(file, mode=None), dtype=np.float32)
    return torch.from_numpy(pixels).reshape(*pixels.shape[:2], -1).permute(2, 0, 1) / 255


def _write_photo(photo: "torch.Tensor", output: Path) -> None:
    from hfembed.images.films import to_pictures, write_picture

    write_picture(to_pictures(photo[None])[0], output)
    print(f"written: {output}")


def _write(frames: "torch.Tensor", output: Path, frames_per_second: int, scale: int) -> None:
    from hfembed.images.films import PICTURE_SUFFIXES, picture_grid, to_pictures, write_film, write_picture

    pictures = to_pictures(frames)
    if output.suffix.lower() in PICTURE_SUFFIXES:
        write_picture(picture_grid([pictures]), output, scale)
    else:
        write_film(pictures, output, frames_per_second, scale)
    print(f"written: {output}")
