"""Commands for autoencoders: compress, restore and morph images, generate new ones, search."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from hfembed.atomic import atomic_write, check_writable
from hfembed.cli import options
from hfembed.cli.commands import Answer, Commands, Hub, lazy_imports, torch
from hfembed.cli.evaluate import choose_split, use_size
from hfembed.errors import InputError, counted, input_errors

with lazy_imports():
    import numpy as np
    from PIL import Image, ImageOps

    from hfembed import photos as photo_files
    from hfembed.checkpoint import loading
    from hfembed.faces.data import aligned_faces, faces, splits
    from hfembed.images import (
        compression,
        face_restorer,
        image_embedders,
        latent_statistics,
        morphing,
        pictures,
        restoration,
    )
    from hfembed.index import embedding_index

_COLUMNS = 8  # of a film's pictures on a page

commands = Commands("Images")

Photo = Annotated[Path, typer.Argument(help="Photo of a face.")]
AnyPhoto = Annotated[Path, typer.Argument(help="A photo of any size.")]
Scale = Annotated[int, typer.Option(min=1, help="Enlarge by this integer factor.")]
FramesPerSecond = Annotated[int, typer.Option(min=1, help="Speed of an animation.")]
Overlap = Annotated[int | None, typer.Option(min=0, help="Pixels shared by adjacent tiles; default: a quarter.")]


@commands.command("fit-latents")
def fit_latents(
    model: options.Autoencoder,
    images: options.People,
    hub: Hub,
    mixture_components: Annotated[int, typer.Option(min=1, help="Gaussians of the mixture to sample from.")] = 8,
    held_out_share: options.HeldOutShare = None,
    split_seed: options.SplitSeed = None,
    seed: Annotated[int, typer.Option(help="Seed of the mixture.")] = 0,
    max_images: Annotated[int, typer.Option(min=0, help="At most this many, spread evenly; 0 = all.")] = 0,
    entropy_steps: Annotated[
        int,
        typer.Option(
            min=0,
            help="Also fit an entropy model to latents that are a grid, for smaller files: steps of 16 images, such "
            "as 1500; 0 = none, or that of a model that was trained to round.",
        ),
    ] = 0,
    device: options.Device = "auto",
) -> Answer:
    """Measure the distribution of latents over images, for sample, walk and compress; written into MODEL."""
    checkpoint = hub.model(model)
    checkpoint.check_writable()
    autoencoder, processor = loading.load_autoencoder(checkpoint, device)
    latent_statistics.check_has_latents(autoencoder)
    people = faces.load_faces(images)
    split = choose_split(checkpoint, held_out_share, split_seed)
    if split["held_out_share"]:
        people, _ = splits.split_people(people, split["held_out_share"], split["seed"])
    pixels = aligned_faces.AlignedFaces(people, processor).pixels(max_images or None)
    latents = latent_statistics.encode_images(autoencoder, processor.normalize(pixels))
    statistics = latent_statistics.LatentStatistics.fit(autoencoder, latents, mixture_components, seed)
    entropy_model = compression.fit_entropy_model(autoencoder, statistics, latents, entropy_steps, seed)
    file = statistics.save(checkpoint, None if entropy_model is None else entropy_model.tensors())
    count, dimensions = len(latents), latents[0].numel()
    text = f"{count} images, latents of {dimensions} dimensions{', entropy model' if entropy_model else ''}: {file}"
    if split["held_out_share"]:
        text += (
            f"; {split['held_out_share']:g} of the people were left out, as in the training (--held-out-share 0: none)"
        )
    return Answer.written(file, text, images=count, dimensions=dimensions)


@commands.command("morph")
def morph(
    model: options.Autoencoder,
    a: Annotated[Path, typer.Argument(help="Photo to start from.")],
    b: Annotated[Path, typer.Argument(help="Photo to end with.")],
    output: options.Film,
    hub: Hub,
    steps: Annotated[int, typer.Option(min=2, help="Pictures, including the first and the last.")] = 24,
    path: Annotated[
        Literal["linear", "spherical"], typer.Option(help="A straight line, or an arc around the origin.")
    ] = "linear",
    shape: Annotated[
        bool, typer.Option("--shape", help="Find the faces, align them and move their landmarks, not the code alone.")
    ] = False,
    detector: Annotated[
        str | None,
        typer.Option(help="Of --shape: a face detector; default: the one of the default face model."),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=8, max=2048, help="Side of the faces in pixels, before --scale, where the model takes any."),
    ] = None,
    frames_per_second: FramesPerSecond = 15,
    scale: Annotated[
        int | None, typer.Option(min=1, help="Enlarge by this integer factor; default: 4; 1 where --size is given.")
    ] = None,
    device: options.Device = "auto",
) -> Answer:
    """Morph one face into another."""
    if detector is not None and not shape:
        raise InputError("--detector finds the landmarks of --shape: give both")
    check_writable(output, a, b)
    photo_files.check_photos(a, b)
    autoencoder, processor = loading.load_autoencoder(hub.model(model), device)
    if size is not None:
        use_size(autoencoder, processor, size)
    points = None
    if shape:
        finder, _ = loading.load_face_detector(hub.face_detector(detector), device)
        faces_there = [
            morphing.align_photo(processor, finder, photo_files.open_photo(photo), str(photo)) for photo in (a, b)
        ]
        start, end = (face for face, _ in faces_there)
        points = torch.stack([landmarks for _, landmarks in faces_there])
    with input_errors():
        if points is None:
            start, end = processor.preprocess([a, b]).pixel_values
        frames = morphing.morph(autoencoder, start, end, steps, spherical=path == "spherical", points=points)
    return _write_animation(frames, output, frames_per_second, scale or (4 if size is None else 1))


@commands.command("walk")
def walk(
    model: options.Autoencoder,
    photo: Annotated[Path, typer.Argument(help="Photo to start from.")],
    output: options.Film,
    hub: Hub,
    direction: Annotated[int, typer.Option(min=0, help="Principal direction of the latents, from 0.")] = 0,
    with_: Annotated[Path | None, typer.Option("--with", help="Folder of photos with an attribute.")] = None,
    without: Annotated[Path | None, typer.Option(help="Folder of photos without it.")] = None,
    reach: Annotated[float, typer.Option(help="How far to go to either side, in multiples of the direction.")] = 2.0,
    steps: Annotated[int, typer.Option(min=2, help="Pictures.")] = 9,
    frames_per_second: FramesPerSecond = 8,
    scale: Scale = 4,
    device: options.Device = "auto",
) -> Answer:
    """Change a face along a direction: a principal one, or from photos without an attribute to photos with it."""
    check_writable(output, photo)
    if (with_ is None) != (without is None):
        raise InputError("an attribute's direction needs both --with and --without")
    photo_files.check_photos(photo)
    checkpoint = hub.model(model)
    autoencoder, processor = loading.load_autoencoder(checkpoint, device)
    with input_errors():
        image = processor.preprocess(photo).pixel_values[0]
        if with_ is not None and without is not None:
            groups = [
                torch.cat([processor(image).pixel_values for _, image in image_embedders.read_photos(folder)])
                for folder in (without, with_)
            ]
            latents = latent_statistics.encode_images(autoencoder, torch.cat(groups))
            has_attribute = torch.arange(len(latents)) >= len(groups[0])
            step = latent_statistics.attribute_direction(latents, has_attribute)
        else:
            step = latent_statistics.LatentStatistics.load(checkpoint).direction(direction)
        frames = morphing.walk(autoencoder, image, step, reach, steps)
    return _write_animation(frames, output, frames_per_second, scale)


@commands.command("sample")
def sample(
    model: options.Autoencoder,
    output: options.Picture,
    hub: Hub,
    count: Annotated[int, typer.Option(min=1, help="New images.")] = 36,
    method: Annotated[
        Literal["mixture", "gaussian", "prior"],
        typer.Option(help="Gaussian mixture or one Gaussian fitted to latents, or a variational model's prior."),
    ] = "mixture",
    seed: Annotated[int, typer.Option(help="Seed of the latents.")] = 0,
    scale: Scale = 2,
    device: options.Device = "auto",
) -> Answer:
    """Generate new images from random latents, in a grid."""
    check_writable(output)
    checkpoint = hub.model(model)
    autoencoder, _ = loading.load_autoencoder(checkpoint, device)
    if method == "prior":
        latents = latent_statistics.sample_prior(autoencoder, count, seed)
    else:
        statistics = latent_statistics.LatentStatistics.load(checkpoint)
        draw = statistics.sample_mixture if method == "mixture" else statistics.sample_gaussian
        latents = draw(count, seed)
    images = pictures.to_pictures(latent_statistics.decode_latents(autoencoder, latents))
    columns = max(1, round(count**0.5))
    rows = [images[start : start + columns] for start in range(0, count, columns)]
    pictures.write_grid(rows, output, scale)
    return Answer.written(output)


@commands.command("compress")
def compress(
    model: options.Autoencoder,
    photo: Photo,
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.")],
    hub: Hub,
    quality: Annotated[
        int | None,
        typer.Option(
            help="Adding 2 halves the quantization step; from 2 to 24, default 10; of a model that rounds those "
            "that it was trained with and 2 more to each side, default their middle; none of quantized codes.",
        ),
    ] = None,
    device: options.Device = "auto",
) -> Answer:
    """Compress a face to a few dozen bytes, for the same model to decompress."""
    check_writable(output, photo)
    photo_files.check_photos(photo)
    picture = photo_files.open_photo(photo, mode=None)
    checkpoint = hub.model(model)
    autoencoder, processor = loading.load_autoencoder(checkpoint, device)
    codec = compression.LatentCodec.load(autoencoder, checkpoint)
    with input_errors():
        image = processor.preprocess(picture).pixel_values[0]
    content = codec.compress(image, quality)
    with atomic_write(output) as temporary:
        temporary.write_bytes(content)
    height, width = image.shape[1:]
    bits = 8 * len(content) / (height * width)
    text = f"{output}: {len(content)} bytes for {width} x {height} pixels, {bits:.3f} bits per pixel"
    if picture.size != (width, height):
        left, top, right, bottom = processor.crop_box(picture.height, picture.width)
        text += (
            f"\n{photo_files.utf8_name(photo)} has {picture.width} x {picture.height} pixels: its center, "
            f"{right - left:.0f} x {bottom - top:.0f}, was resized, no face looked for; a model that was trained on "
            "aligned faces expects such a crop"
        )
    return Answer.written(output, text, bytes=len(content), bits_per_pixel=bits, width=width, height=height)


@commands.command("decompress")
def decompress(
    model: options.Autoencoder,
    file: Annotated[Path, typer.Argument(help="What hfembed compress wrote.")],
    output: options.Picture,
    hub: Hub,
    device: options.Device = "auto",
) -> Answer:
    """Reconstruct a compressed face."""
    check_writable(output, file)
    checkpoint = hub.model(model)
    autoencoder, _ = loading.load_autoencoder(checkpoint, device)
    codec = compression.LatentCodec.load(autoencoder, checkpoint)
    return _write_picture(codec.read_file(file), output)


@commands.command("similar")
def similar(
    model: Annotated[
        str,
        typer.Argument(help="Autoencoder or face embedder, checkpoint folder or Hub id; or timm/<network>[=weights]."),
    ],
    folder: Annotated[Path, typer.Argument(help="Folder of photos to search, at any depth.")],
    photo: Annotated[Path, typer.Argument(help="Photo to look for.")],
    hub: Hub,
    output: Annotated[Path | None, typer.Option(help="Picture to write: the photo and the most similar.")] = None,
    top_k: options.TopK = 8,
    device: options.Device = "auto",
) -> Answer:
    """Find the photos most similar to a photo."""
    if output is not None:
        check_writable(options.check_picture(output), photo)
    photo_files.check_photos(photo)
    embed = image_embedders.load_image_embedder(model if model.startswith("timm/") else hub.model(model), device)
    query = embed([photo])
    files, embeddings = image_embedders.embed_folder(embed, folder, without=photo)
    index = embedding_index.EmbeddingIndex(model=model)
    index.add(embeddings, [file.parent.name for file in files], [str(file) for file in files])
    scores, rows = index.nearest(query, top_k)
    found = [(str(files[row]), float(score)) for row, score in zip(rows[0], scores[0], strict=True)]
    if output is not None:
        shown = [photo, *(file for file, _ in found)]
        thumbnails = [np.array(ImageOps.fit(photo_files.open_photo(file), (128, 128))) for file in shown]
        captions = ["the photo", *(f"{score:.3f}" for _, score in found)]
        pictures.write_grid([np.stack(thumbnails)], output, captions=captions)
    lines = [f"{score:.3f}  {file}" for file, score in found]
    return Answer({"similar": found}, "\n".join(lines if output is None else [*lines, f"written to {output}"]))


@commands.command("denoise")
def denoise(
    model: options.Autoencoder,
    photo: AnyPhoto,
    output: options.Picture,
    hub: Hub,
    overlap: Overlap = None,
    device: options.Device = "auto",
) -> Answer:
    """Remove the noise from a photo."""
    check_writable(output, photo)
    photo_files.check_photos(photo)
    autoencoder, _ = loading.load_autoencoder(hub.model(model), device)
    return _write_picture(restoration.denoise(autoencoder, _read_photo(photo), overlap), output)


@commands.command("inpaint")
def inpaint(
    model: options.Autoencoder,
    photo: AnyPhoto,
    mask: Annotated[Path, typer.Argument(help="A picture of the same size, white where the photo is to be filled.")],
    output: options.Picture,
    hub: Hub,
    overlap: Overlap = None,
    device: options.Device = "auto",
) -> Answer:
    """Fill a hole in a photo."""
    check_writable(output, photo, mask)
    photo_files.check_photos(photo, mask)
    autoencoder, _ = loading.load_autoencoder(hub.model(model), device)
    hole = torch.from_numpy(_read_mask(mask))
    return _write_picture(restoration.inpaint(autoencoder, _read_photo(photo), hole, overlap=overlap), output)


@commands.command("restore")
def restore(
    model: options.Autoencoder,
    photo: AnyPhoto,
    output: options.Picture,
    hub: Hub,
    detector: Annotated[
        str | None,
        typer.Option(help="Of a face detector; default: the one of the default face model."),
    ] = None,
    scale: Annotated[int, typer.Option(min=1, max=4, help="First enlarge the photo by this integer factor.")] = 1,
    mask: Annotated[
        Path | None, typer.Option(help="A picture of the photo's size, white where the photo is to be filled.")
    ] = None,
    whole: Annotated[bool, typer.Option("--whole", help="Restore the whole photo by tiles, not its faces.")] = False,
    overlap: Overlap = None,
    device: options.Device = "auto",
) -> Answer:
    """Remove noise, blur, compression artifacts and holes from the faces in a photo, or from all of it."""
    if whole and detector is not None:
        raise InputError("--whole looks for no faces: give either it or --detector")
    if overlap is not None and not whole:
        raise InputError("--overlap is that of the tiles of --whole")
    inputs = (photo,) if mask is None else (photo, mask)
    check_writable(output, *inputs)
    photo_files.check_photos(*inputs)
    picture = _enlarged(photo_files.open_photo(photo, mode=None), scale, photo)
    hole = None if mask is None else _read_mask(mask, scale)
    autoencoder, _ = loading.load_autoencoder(hub.model(model), device)
    pixels = _to_tensor(picture)
    if hole is not None:
        restoration.check_mask(autoencoder, pixels, torch.from_numpy(hole))
    if whole:
        holes = None if hole is None else torch.from_numpy(hole)
        return _write_picture(restoration.restore(autoencoder, pixels, holes, overlap), output)
    face_restorer.check_takes_faces(autoencoder)
    finder, _ = loading.load_face_detector(hub.face_detector(detector), device)
    restored, count = face_restorer.FaceRestorer(autoencoder, finder)(picture, hole, str(photo))
    pictures.write_picture(np.array(restored), output)
    return Answer.written(output, f"{counted(count, 'face')} restored, written to {output}", faces=count)


def _enlarged(picture: "Image.Image", scale: int, file: Path) -> "Image.Image":
    width, height = scale * picture.width, scale * picture.height
    if width * height > photo_files.MAX_PIXELS:
        raise InputError(
            f"{photo_files.utf8_name(file)}: {width} x {height} pixels are more than {photo_files.MAX_PIXELS:,}; "
            "choose a smaller --scale"
        )
    return picture.resize((width, height), Image.Resampling.BICUBIC) if scale > 1 else picture


def _read_mask(file: Path, scale: int = 1) -> "np.ndarray":
    """Where a mask is white, (H, W) bool; what is transparent in it is not."""
    return np.array(_enlarged(photo_files.open_photo(file, mode="L", background="black"), scale, file)) > 127


def _read_photo(file: Path) -> "torch.Tensor":
    """A photo, upright, at its own size: (1 or 3, H, W) float32 in [0, 1]."""
    return _to_tensor(photo_files.open_photo(file, mode=None))


def _to_tensor(picture: "Image.Image") -> "torch.Tensor":
    pixels = np.array(picture, dtype=np.float32)
    return torch.from_numpy(pixels).reshape(*pixels.shape[:2], -1).permute(2, 0, 1) / 255


def _write_picture(image: "torch.Tensor", output: Path) -> Answer:
    picture = pictures.to_pictures(image[None])[0]
    pictures.write_picture(picture[:, :, 0] if len(image) == 1 else picture, output)
    return Answer.written(output)


def _write_animation(frames: "torch.Tensor", output: Path, frames_per_second: int, scale: int) -> Answer:
    images = pictures.to_pictures(frames)
    if output.suffix.lower() in pictures.PICTURE_SUFFIXES:
        pictures.write_grid(
            [images[start : start + _COLUMNS] for start in range(0, len(images), _COLUMNS)], output, scale
        )
    else:
        pictures.write_animation(images, output, frames_per_second, scale)
    return Answer.written(output)
