"""Commands that look at faces: group them, say what makes two alike, and a page to try models on."""

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer()

Model = Annotated[str, typer.Option(help="Folder or Hub id of a face analyzer; with --aligned, of a face embedder.")]
Aligned = Annotated[bool, typer.Option("--aligned", help="The photos are faces cut out already: no detector.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, ...; auto takes the accelerator.")]


@app.command("group")
def group(
    folder: Annotated[Path, typer.Argument(help="Photos, without names.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the contact sheets; open its index.html.")],
    model: Model,
    aligned: Aligned = False,
    far: Annotated[
        float | None, typer.Option(help="Join groups at the threshold of this false accept rate; default: 1e-3.")
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="Instead: join groups from this mean cosine on.")] = None,
    map_method: Annotated[
        Literal["t-sne", "umap", "pca", "none"], typer.Option("--map", help="How map.png is laid out.")
    ] = "t-sne",
    device: Device = "auto",
) -> None:
    """Group the faces of a folder by person, with a contact sheet a group."""
    from hfembed.faces.clustering import check_output, choose_threshold, group_embeddings, write_groups
    from hfembed.faces.detection import read_face_crops

    check_output(output)
    faces = read_face_crops(folder, model, aligned, device=device)
    chosen = choose_threshold(faces.thresholds, far) if threshold is None else threshold
    groups = group_embeddings(faces.embeddings, chosen)
    write_groups(faces, groups, output, None if map_method == "none" else map_method)
    sizes = [int((groups == number).sum()) for number in range(int(groups.max()) + 1)]
    alone = sizes.count(1)
    print(f"{len(groups)} faces at cosine {chosen:.3f}: {len(sizes) - alone} groups, {alone} faces alone")
    for file, reason in list(faces.failures.items())[:10]:
        print(f"  no face from {file}: {reason}")
    if len(faces.failures) > 10:
        print(f"  and {len(faces.failures) - 10} more, in index.html")
    print(f"  written to {output}/index.html")


@app.command("explain")
def explain(
    a: Annotated[Path, typer.Argument(help="A face.")],
    b: Annotated[Path, typer.Argument(help="Another.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The picture to write (.png, .svg, .pdf).")],
    model: Model,
    aligned: Aligned = False,
    patch: Annotated[int, typer.Option(min=1, help="Side of the square that covers, in pixels of the crop.")] = 24,
    stride: Annotated[int, typer.Option(min=1, help="Its steps.")] = 8,
    device: Device = "auto",
) -> None:
    """Draw which regions make two faces alike, by covering them one by one."""
    from hfembed.errors import input_errors
    from hfembed.faces.detection import read_face_pair
    from hfembed.faces.evaluation.occlusion import occlusion_map, plot_occlusion

    with input_errors():
        embedder, processor, crop_a, crop_b = read_face_pair(a, b, model, aligned, device)
        map_a, similarity = occlusion_map(embedder, processor, crop_a, crop_b, patch, stride)
        map_b, _ = occlusion_map(embedder, processor, crop_b, crop_a, patch, stride)
    plot_occlusion((crop_a, crop_b), (map_a, map_b), similarity, output)
    print(f"cosine similarity {similarity:.3f}; written to {output}")


@app.command("demo")
def demo(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL ...", help="One of a kind: face analyzer, words, autoencoder, swap.")
    ],
    gallery: Annotated[
        str | None, typer.Option(help="EmbeddingIndex to identify people in: folder or Hub id.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets others in.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Default: the first free one from 7860 on.")] = None,
    device: Device = "auto",
) -> None:
    """Open a page in the browser to try models on; needs the demo extra."""
    from hfembed.errors import InputError

    try:
        from hfembed.demo.page import serve
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise InputError('the page needs gradio: pip install "hfembed[demo]"') from error
    serve(models, gallery, host, port, device)
