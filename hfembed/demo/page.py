"""A page to try models on: verify, identify, neighbors, analogies, morph, swap."""

import functools
import os
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from starlette.middleware import Middleware

from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.checkpoint.loading import (
    APPEARANCE_AUTOENCODER,
    CONV_AUTOENCODER,
    FACE_EMBEDDER,
    FACE_SWAP,
    IDENTITY_SWAP,
    WORD2VEC,
    load_autoencoder,
    load_face_swap,
    load_word2vec,
)
from hfembed.checkpoint.validation import parse_config
from hfembed.demo.faces import FaceReader
from hfembed.demo.server import KEPT_SECONDS, HostCheck, UploadsOnly, ended_by_signals, upload_folder
from hfembed.errors import InputError, input_errors
from hfembed.faces.swap.face_swapper import FaceSwapper
from hfembed.faces.swap.provenance_mark import save_marked
from hfembed.images.morphing import morph
from hfembed.images.pictures import to_pictures
from hfembed.index.embedding_index import EmbeddingIndex
from hfembed.models.conv_autoencoder.image_processing_conv_autoencoder import ConvAutoencoderImageProcessor
from hfembed.models.word2vec.modeling_word2vec import Word2VecModel
from hfembed.photos import open_photo

MAX_UPLOAD = "8mb"
PHOTO_TYPES = [".jpg", ".jpeg", ".png", ".webp"]

_NOTICE = (
    "Photos are deleted within minutes; nothing is kept. Faces are personal data: use photos of people who agreed."
)


def build_page(models: Sequence[str | Checkpoint], gallery: str | None = None, device: str = "auto") -> gr.Blocks:
    """Put a page together, with one tab for each thing that the models can do.

    Raises:
        InputError: A model cannot be read, is of an unsupported family, or two are of one family; or the gallery is of
            another face model.
    """
    by_kind: dict[str, Checkpoint] = {}
    for checkpoint in map(Checkpoint.resolve, models):
        kind = parse_config(checkpoint.config, checkpoint.name).model_type
        kind = CONV_AUTOENCODER if kind == APPEARANCE_AUTOENCODER else kind  # both have latents to morph
        kind = FACE_SWAP if kind == IDENTITY_SWAP else kind
        if kind not in (FACE_EMBEDDER, WORD2VEC, CONV_AUTOENCODER, FACE_SWAP):
            raise InputError(f"{checkpoint.name}: the page has nothing for model_type {kind!r}")
        if kind in by_kind:
            raise InputError(f"{by_kind[kind].name} and {checkpoint.name} are models of one family; give one of them")
        by_kind[kind] = checkpoint
    if not by_kind:
        raise InputError("no model; give a face analyzer or embedder, word vectors, an autoencoder or several of them")
    if gallery is not None and FACE_EMBEDDER not in by_kind:
        raise InputError("a gallery needs the face model that its embeddings come from")

    reader = FaceReader(by_kind[FACE_EMBEDDER], device) if FACE_EMBEDDER in by_kind else None
    index = None if gallery is None else EmbeddingIndex.from_pretrained(gallery)
    if index is not None and reader is not None:
        reader.check_gallery(index, str(gallery))
    with gr.Blocks(title="hfembed", analytics_enabled=False, delete_cache=(60, KEPT_SECONDS)) as page:
        gr.Markdown(f"# hfembed\n{_NOTICE}")
        if reader is not None:
            _verify_tab(reader)
            _identify_tab(reader, index)
        if WORD2VEC in by_kind:
            _words_tab(load_word2vec(by_kind[WORD2VEC], device))
        if CONV_AUTOENCODER in by_kind:
            _morph_tab(*load_autoencoder(by_kind[CONV_AUTOENCODER], device))
        if FACE_SWAP in by_kind:
            _swap_tab(by_kind[FACE_SWAP], reader, device)
    return page


def serve(
    models: Sequence[str | Checkpoint],
    gallery: str | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    device: str = "auto",
    block: bool = True,
) -> gr.Blocks:
    """Show the page until the program ends. Uploads lie in a folder of their own, which is deleted then.

    Args:
        host: The address to listen on; the default is reached from this machine alone. Requests that name another
            host are refused.
        port: The port; None takes the first free one from 7860 on.

    Raises:
        InputError: See `build_page`.
        OSError: The port is taken.
    """
    with ExitStack() as stack:
        if block:
            stack.enter_context(ended_by_signals())
        uploads = stack.enter_context(upload_folder())
        os.environ["GRADIO_TEMP_DIR"] = str(uploads)
        page = build_page(models, gallery, device)
        page.uploads = uploads  # type: ignore[attr-defined]
        page.launch(
            server_name=host,
            server_port=port,
            share=False,
            max_file_size=MAX_UPLOAD,
            prevent_thread_lock=True,
            quiet=True,
            strict_cors=True,
            ssr_mode=False,
            app_kwargs={"middleware": [Middleware(HostCheck, host=host), Middleware(UploadsOnly, folder=uploads)]},
        )
        if block:
            print(f"the page is at {page.local_url}; Ctrl+C ends it", flush=True)  # noqa: T201
            page.block_thread()
        else:
            close, open_ends = page.close, stack.pop_all()

            def close_all(*arguments: Any, **options: Any) -> None:
                close(*arguments, **options)
                open_ends.close()

            page.close = close_all  # type: ignore[method-assign]
    return page


def _answering(function: Callable[..., Any]) -> Callable[..., Any]:
    """Show what is wrong with the input as one line on the page; uploads go by the names they came with."""

    @functools.wraps(function)
    def wrapper(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except InputError as error:
            message = str(error)
            for argument in arguments:
                for upload in argument if isinstance(argument, list) else [argument]:
                    if isinstance(upload, str) and os.path.isabs(upload):
                        message = message.replace(upload, Path(upload).name)
            raise gr.Error(message, print_exception=False) from error

    return wrapper


def _photo(label: str, name: str) -> gr.Image:
    photo = gr.Image(label=label, type="filepath", image_mode=None, sources=["upload"], height=260, elem_id=name)
    # gradio would open it itself, with any format that Pillow knows and without a reason on the page
    photo.preprocess = _uploaded_file  # type: ignore[method-assign,assignment]
    return photo


def _uploaded_file(upload: Any) -> str | None:
    if upload is not None and not upload.path:
        raise gr.Error("the photo has to be uploaded as a file", print_exception=False)
    return None if upload is None else str(upload.path)


def _rate(rates: Sequence[float], label: str) -> gr.Dropdown:
    """Rates to choose from, descending; the lowest is preset."""
    return gr.Dropdown([(f"1 in {round(1 / rate):,}", rate) for rate in rates], value=rates[-1], label=label)


def _both(a: str | None, b: str | None) -> tuple[str, str]:
    if a is None or b is None:
        raise InputError("choose two photos first")
    return a, b


def _verify_tab(reader: FaceReader) -> None:
    @_answering
    def verify(a: str | None, b: str | None, rate: float) -> str:
        answer = reader.compare(*_both(a, b), rate)
        lines = [
            f"## {'The same person' if answer.same else 'Two people'}",
            f"cosine {answer.similarity:.3f}, threshold {answer.threshold:.3f} (one false accept in "
            f"{round(1 / rate):,}, measured on {reader.data})",
        ]
        if answer.probability is not None:
            lines.append(f"probability {100 * answer.probability:.1f} % at even odds")
        return "\n\n".join(lines)

    with gr.Tab("Verify"):
        gr.Markdown("Do two photos show one person?" + _crop_notice(reader))
        with gr.Row():
            a, b = _photo("First photo", "verify-a"), _photo("Second photo", "verify-b")
        rate = _rate(reader.rates, "False accepts allowed")
        button = gr.Button("Compare", variant="primary", elem_id="verify-button")
        button.click(verify, [a, b, rate], gr.Markdown(elem_id="verify-answer"), api_name="verify")


def _identify_tab(reader: FaceReader, gallery: EmbeddingIndex | None) -> None:
    # thresholds for pairs do not know how many photos a stranger is compared with; the gallery's own do
    calibration = None if gallery is None else gallery.thresholds.get("max")

    @_answering
    def identify(photo: str | None, people: list[str] | None, rate: float) -> tuple[str, list[list[str]], str]:
        if photo is None:
            raise InputError("choose a photo first")
        if gallery is None and not people:
            raise InputError("choose photos of the people to look among first")
        index = gallery if gallery is not None else reader.enroll(people or [])
        if calibration is not None:
            threshold = index.threshold(rate)
            basis = (
                f"one search for a stranger in {round(1 / rate):,} names somebody in this gallery, measured on "
                f"{calibration['data']}"
            )
        else:
            threshold = reader.threshold(rate)
            basis = (
                f"one false accept in {round(1 / rate):,} pairs, measured on {reader.data}; who is looked for is "
                f"compared with {len(index):,} photos"
            )
        found = reader.identify(photo, index, threshold)
        name, _, near = found[0]
        rows = [[person, f"{score:.3f}", "yes" if near else "no"] for person, score, near in found]
        return (f"It is {name}" if near else "Unknown"), rows, f"threshold {threshold:.3f} ({basis})"

    with gr.Tab("Identify"):
        gr.Markdown("Who is it?" + _crop_notice(reader))
        with gr.Row():
            photo = _photo("Photo", "identify-photo")
            people = gr.File(
                label="Gallery: photos named after who is on them (Ann_1.jpg, Ann_2.jpg, Bob.jpg)",
                file_count="multiple",
                file_types=PHOTO_TYPES,
                visible=gallery is None,
                elem_id="identify-gallery",
            )
        if gallery is not None:
            gr.Markdown(f"The gallery holds {len(gallery.names):,} people, {len(gallery):,} photos.")
        if calibration is not None:
            rates = sorted(map(float, calibration["fpir"]), reverse=True)
            rate = _rate(rates, "Searches for strangers that may name somebody")
        else:
            rate = _rate(reader.rates, "False accepts allowed")
        button = gr.Button("Identify", variant="primary", elem_id="identify-button")
        answer = gr.Textbox(label="Answer", elem_id="identify-answer")
        table = gr.Dataframe(headers=["person", "cosine", "near enough"], interactive=False)
        basis = gr.Markdown(elem_id="identify-basis")
        button.click(identify, [photo, people, rate], [answer, table, basis], api_name="identify")


def _words_tab(vectors: Word2VecModel) -> None:
    def rows(found: list[tuple[str, float]]) -> list[list[str]]:
        return [[word, f"{score:.3f}"] for word, score in found]

    @_answering
    def neighbors(word: str) -> list[list[str]]:
        with input_errors():
            return rows(vectors.most_similar(word.strip(), top_k=10))

    @_answering
    def analogy(a: str, b: str, c: str) -> list[list[str]]:
        with input_errors():
            return rows(vectors.analogy(a.strip(), b.strip(), c.strip(), 5))

    with gr.Tab("Words"):
        gr.Markdown(f"{len(vectors.vocabulary or ()):,} words")
        word = gr.Textbox(label="Nearest words of", max_length=100, elem_id="word")
        button = gr.Button("Nearest", elem_id="word-button")
        table = gr.Dataframe(headers=["word", "cosine"], interactive=False, elem_id="word-answer")
        gr.on([button.click, word.submit], neighbors, word, table, api_name="neighbors")
        with gr.Row():
            a, b, c = (gr.Textbox(label=text, max_length=100) for text in ("A", "is to B", "as C is to"))
        button = gr.Button("Answer")
        table = gr.Dataframe(headers=["word", "score"], interactive=False)
        button.click(analogy, [a, b, c], table, api_name="analogy")


def _morph_tab(model: Any, processor: ConvAutoencoderImageProcessor) -> None:
    @_answering
    def between(a: str | None, b: str | None, steps: int) -> list[np.ndarray]:
        with input_errors():
            start, end = processor([open_photo(photo) for photo in _both(a, b)]).pixel_values
            return list(to_pictures(morph(model, start, end, int(steps))))

    with gr.Tab("Morph"):
        share = round(100 * processor.crop_fraction)
        seen = "all of it" if share == 100 else f"the middle {share} % of its sides"
        gr.Markdown(f"From one face to another, both upright. Of each photo the model sees {seen}.")
        with gr.Row():
            a, b = _photo("From", "morph-a"), _photo("To", "morph-b")
        steps = gr.Slider(3, 15, value=7, step=1, label="Pictures")
        button = gr.Button("Morph", variant="primary", elem_id="morph-button")
        gallery = gr.Gallery(columns=5, elem_id="morph-answer", label="Made by a computer")
        button.click(between, [a, b, steps], gallery, api_name="morph")


def _swap_tab(checkpoint: Checkpoint, reader: FaceReader | None, device: str) -> None:
    if reader is None or reader.analyzer is None:
        raise InputError(f"{checkpoint.name} needs a detector to find faces with: give a face analyzer too")
    model, processor = load_face_swap(checkpoint, device)
    swapper = FaceSwapper(model, processor, reader.analyzer.detector)

    @_answering
    def swap(photo: str | None, person: str) -> Path:
        if photo is None:
            raise InputError("choose a photo first")
        # a file in the page's own folder is passed on unchanged, with the note that it was generated, and is deleted
        file = Path(picture.GRADIO_CACHE) / f"swapped_{uuid.uuid4().hex}.png"
        save_marked(swapper(photo, person)[0], file)
        return file

    with gr.Tab("Swap"):
        gr.Markdown("Every face in the photo is drawn as another person's: only with the consent of both.")
        photo = _photo("Photo", "swap-photo")
        person = gr.Dropdown(list(model.config.people), label="Person")
        button = gr.Button("Swap", variant="primary", elem_id="swap-button")
        picture = gr.Image(label="Made by a computer", interactive=False, elem_id="swap-answer")
        button.click(swap, [photo, person], picture, api_name="swap")


def _crop_notice(reader: FaceReader) -> str:
    return " Photos have to be cropped faces." if reader.needs_crops else " The largest face of a photo counts."
