"""What each family's card says of its evaluations."""

from collections.abc import Callable
from typing import Any

from huggingface_hub import EvalResult

from hfembed.checkpoint.card import CardNotes, CardParts, Table

# figure in results.json -> (its name in the card, metric type on the Hub)
_VERIFICATION_FIGURES = {
    "accuracy": ("accuracy", "accuracy"),
    "insightface_accuracy": ("accuracy by insightface's rule", "accuracy"),
    "auc": ("area under the ROC curve", "roc_auc"),
    "eer": ("equal error rate", "eer"),
    **{f"tar_at_far_1e-{digits}": (f"TAR at FAR 1e-{digits}", "tar_at_far") for digits in range(1, 7)},
}
_TEMPLATE_FIGURES = {
    **{figure: known for figure, known in _VERIFICATION_FIGURES.items() if figure.startswith("tar_")},
    **{f"rank_{rank}": (f"rank-{rank} identification rate", "identification_rate") for rank in (1, 5, 10)},
    **{f"tpir_at_fpir_{fpir}": (f"TPIR at FPIR {fpir}", "tpir_at_fpir") for fpir in ("0.1", "0.01")},
}
# a set's name in results.json -> what it is called
_SETS = {
    "lfw": "LFW", "calfw": "CALFW", "cplfw": "CPLFW", "agedb_30": "AgeDB-30", "cfp_fp": "CFP-FP", "cfp_ff": "CFP-FF",
    "ijbb": "IJB-B", "ijbc": "IJB-C",
}  # fmt: skip


def _detector_card(notes: CardNotes) -> CardParts:
    return CardParts(
        "face_detector.md.jinja",
        "object-detection",
        ["face-detection", "face-alignment"],
        {"detections.png": "Detections", "precision_recall.png": "Precision and recall"},
        _tables(notes),
        [],
    )


def _autoencoder_card(notes: CardNotes) -> CardParts:
    results = [
        EvalResult(
            task_type="image-feature-extraction",
            task_name=name.replace("_", " "),
            dataset_type="images",
            dataset_name=str(details.get("data", "held-out images")),
            dataset_config=name,
            dataset_split="test",
            dataset_revision=_sha256(details, "images", "photos"),
            metric_type="psnr" if figure.endswith("psnr") else "ssim",
            metric_name=figure.replace("_", " "),
            metric_value=round(value, 3),
        )
        for name, details in notes.evaluations.items()
        for figure, value in details["figures"].items()
        if figure.endswith(("psnr", "ssim"))
    ]
    tags = ["autoencoder", "image-reconstruction"]
    if notes.config.get("variational"):
        tags.append("variational-autoencoder")
    elif notes.config["model_type"] == "hfembed_restoration_autoencoder":
        fills = notes.config.get("inpainting")
        tags = ["image-restoration"]
        tags += ["denoising"] if not fills or notes.config.get("fill") == "smooth" else []
        tags += ["inpainting"] if fills else []
    return CardParts(
        "conv_autoencoder.md.jinja",
        "image-feature-extraction",
        tags,
        {
            "reconstructions.png": "Photos and their reconstructions",
            "samples.png": "Samples",
            "morph.png": "A morph",
            "curves.png": "Training curves",
        },
        _tables(notes, psnr=" dB", gain=" dB"),
        results,
    )


def _swap_card(notes: CardNotes, template: str = "face_swap.md.jinja") -> CardParts:
    results = [
        EvalResult(
            task_type="image-to-image",
            task_name="face swap",
            dataset_type="faces",
            dataset_name="held-out photos of the people it was trained on",
            dataset_split="test",
            metric_type="closer_to_target",
            metric_name="swaps closer to the target than to the source",
            metric_value=round(details["figures"]["closer_to_target"], 2),
        )
        for details in notes.evaluations.values()
        if "closer_to_target" in details["figures"]
    ]
    return CardParts(
        template,
        "image-to-image",
        ["face-swap"],
        {
            "swaps.png": "Photos, and each reconstructed by every decoder",
            "pose_distance.png": "How the likeness falls with the distance of the pose",
            "curves.png": "Training curves",
        },
        _tables(notes, closer_to_target=" %", undetected=" %"),
        results,
    )


def _identity_swap_card(notes: CardNotes) -> CardParts:
    return _swap_card(notes, "identity_swap.md.jinja")


def _face_card(notes: CardNotes) -> CardParts:
    verified = {name: details for name, details in notes.evaluations.items() if "regime" in details}
    templates = {name: details for name, details in notes.evaluations.items() if "templates" in details}
    tables = {
        name: Table(_verification_about(found), _figure_rows(found, _VERIFICATION_FIGURES), found)
        for name, found in verified.items()
    }
    tables |= {
        name: Table(_templates_about(found), _figure_rows(found, _TEMPLATE_FIGURES), found)
        for name, found in templates.items()
    }
    results = [result for name, found in verified.items() for result in _verification_results(name, found)]
    results += [result for name, found in templates.items() for result in _template_results(name, found)]
    curves = {f"{name}_roc.png": f"ROC curve, {name}" for name in (*verified, *templates)}
    return CardParts(
        "face_embedder.md.jinja",
        "image-feature-extraction",
        ["face-recognition", "face-verification"],
        {
            "roc.png": "ROC curve",
            "mistakes.png": "The most confident mistakes",
            "groups.png": "Error rates by group of people, with 95 % intervals",
            "neighbors.png": "Nearest neighbors",
            "neighbours.png": "Nearest neighbors",  # the name in folders written before
        }
        | curves,
        _tables(notes) | tables,
        results,
    )


def _verification_about(details: dict[str, Any]) -> str:
    images, pairs = details["images"], details["pairs"]
    return (
        f"{details['protocol']}; regime: {details['regime']}; mirror: {details['mirror']}.\n"
        f"{images['failed']} of {images['named']} images failed and make {pairs['failed']} pairs errors."
    )


def _templates_about(details: dict[str, Any]) -> str:
    templates, pairs = details["templates"], details["pairs"]
    return (
        f"{details['protocol']}; mirror: {details['mirror']}.\n"
        f"{templates['all']:,} templates of {details['faces']:,} faces, {pairs['genuine']:,} genuine and "
        f"{pairs['impostor']:,} impostor pairs; {len(details['failures']):,} photos failed and take no part."
    )


def _tar_interval(details: dict[str, Any], figure: str) -> list[float] | None:
    """The 95 % interval of a TAR."""
    interval: list[float] | None = (
        details.get("tar_at_far", {}).get(figure.removeprefix("tar_at_far_"), {}).get("interval_95")
    )
    return interval


def _figure_rows(details: dict[str, Any], known: dict[str, tuple[str, str]]) -> list[tuple[str, str]]:
    """(figure, value with its uncertainty), the baselines last."""
    figures = details["figures"]
    rows = []
    for figure, (label, _) in known.items():
        if figure not in figures:
            continue
        text = f"{figures[figure]:.2f} %"
        if figure == "accuracy" and "standard_error" in figures:
            text += f" +- {figures['standard_error']:.2f} (standard error)"
        interval = _tar_interval(details, figure)
        if interval:
            text += f" ({interval[0]:.1f} to {interval[1]:.1f})"
        rows.append((label, text))
    for group, rates in details.get("groups", {}).get("rows", {}).items():
        if group != "all":
            rows.append((f"group: {group} ({rates['genuine']} + {rates['impostor']} pairs)", _group_text(rates)))
    baselines = details.get("baselines") or details.get("floors", {})  # as older versions called them
    for baseline, measured in baselines.get("rows", {}).items():
        accuracy = next(value for figure, value in measured.items() if figure.endswith("_accuracy"))
        rows.append((f"baseline: {baseline.replace('_', ' ')}, accuracy", f"{accuracy:.2f} %"))
    return rows


def _group_text(rates: dict[str, Any]) -> str:
    """Accuracy, FMR and FNMR at the threshold of the highest accuracy over all pairs."""
    shown = []
    for key, label in (("accuracy", "accuracy"), ("fmr", "FMR"), ("fnmr", "FNMR")):
        if rates[key] is not None:
            low, high = rates[f"{key}_interval_95"]
            shown.append(f"{label} {rates[key]:.2f} % ({low:.2f} to {high:.2f})")
    return ", ".join(shown)


def _verification_results(name: str, details: dict[str, Any]) -> list[EvalResult]:
    if name in ("lfw_view1", "lfw_view2"):
        view = name.removeprefix("lfw_")
        dataset = {
            "dataset_type": "lfw",
            "dataset_name": f"Labeled Faces in the Wild ({view})",
            "dataset_config": view,
            "dataset_revision": _sha256(details, "images", "pairs"),
        }
    else:
        count = details["pairs"]["genuine"] + details["pairs"]["impostor"]
        dataset = _dataset(name, details, "pairs", f"{count:,} pairs")
    return _results("face verification", details, _VERIFICATION_FIGURES, dataset)


def _template_results(name: str, details: dict[str, Any]) -> list[EvalResult]:
    dataset = _dataset(name, details, "set", f"{details['templates']['all']:,} templates")
    verification = {figure: known for figure, known in _TEMPLATE_FIGURES.items() if figure.startswith("tar_")}
    identification = {figure: known for figure, known in _TEMPLATE_FIGURES.items() if figure not in verification}
    return _results("face verification", details, verification, dataset) + _results(
        "face identification", details, identification, dataset
    )


def _dataset(name: str, details: dict[str, Any], role: str, size: str) -> dict[str, Any]:
    """A set for the model-index: what it is called, the file that was read, and how large it is."""
    file = details.get("files", {}).get(role, {}).get("name", "")
    return {
        "dataset_type": name,
        "dataset_name": f"{_SETS.get(name, name)} ({f'{file}, ' if file else ''}{size})",
        "dataset_revision": _sha256(details, role),
    }


def _results(
    task: str, details: dict[str, Any], known: dict[str, tuple[str, str]], dataset: dict[str, Any]
) -> list[EvalResult]:
    figures = details["figures"]
    results = []
    for figure, (label, metric_type) in known.items():
        if figure not in figures:
            continue
        confidence: dict[str, Any] = {}
        if figure == "accuracy" and "standard_error" in figures:
            confidence["standard_error"] = round(figures["standard_error"], 2)
        if interval := _tar_interval(details, figure):
            confidence["interval_95"] = [round(bound, 1) for bound in interval]
        results.append(
            EvalResult(
                task_type="image-feature-extraction",
                task_name=task,
                **dataset,
                dataset_split="test",
                metric_type=metric_type,
                metric_name=label,
                metric_value=round(figures[figure], 2),
                metric_args=confidence or None,
            )
        )
    return results


_WORD_TASKS = {
    "accuracy": "word analogies",
    "spearman": "word similarity",
    "average_precision": "word relatedness",
    "opp": "outlier detection",
}
_WORD_METRICS = {
    "spearman": "Spearman", "average_precision": "average precision", "opp": "outlier position percentage"
}  # fmt: skip


def _word_card(notes: CardNotes) -> CardParts:
    details = notes.evaluations.get("words", {})
    figures = details.get("figures", {})
    # (test, metric, value, what it is of)
    measured = [
        (test, "accuracy", figures[f"{test}_accuracy"], f" % of {sections['total']['asked']} questions asked")
        for test, sections in details.get("analogies", {}).items()
    ]
    measured += [
        (f"{test} {category}", "accuracy", figures[f"{test}_{category}_accuracy"], f" % of {part['asked']}")
        for test, categories in details.get("analogy_categories", {}).items()
        for category, part in categories.items()
    ]
    for test, known in details.get("word_pairs", {}).items():
        # of related and other pairs, as in RUSSE, the precision is the usual figure
        metric = "average_precision" if f"{test}_average_precision" in figures else "spearman"
        if f"{test}_{metric}" in figures:
            measured.append(
                (test, metric, figures[f"{test}_{metric}"], f" over {known['pairs']} of {known['of']} pairs")
            )
    measured += [
        (test, "opp", figures[f"{test}_opp"], f" % of {groups['total']['asked']} outliers")
        for test, groups in details.get("outliers", {}).items()
        if f"{test}_opp" in figures
    ]
    results = [
        EvalResult(
            task_type="feature-extraction",
            task_name=_WORD_TASKS[metric],
            dataset_type=test,
            dataset_name=test,
            dataset_split="test",
            metric_type=metric,
            metric_value=round(value, 2),
        )
        for test, metric, value, _ in measured
    ]
    rows = [
        (f"{test}, {_WORD_METRICS.get(metric, metric)}", f"{value:.2f}{note}")
        for test, metric, value, note in measured
    ]
    rows += [
        (
            f"{test}: {sets['sets'][0]} with {sets['sets'][2]}, {sets['sets'][1]} with {sets['sets'][3]}",
            f"effect size {figures[f'{test}_effect_size']:.2f}, p {figures[f'{test}_p_value']:.2g}",
        )
        for test, sets in details.get("associations", {}).items()
        if f"{test}_effect_size" in figures
    ]
    tables = {}
    if rows:
        settings = details["settings"]
        about = (
            f"Accuracies in percent, correlations x 100, over the {settings['restrict_vocab']} most frequent words "
            f"({settings['method']})."
        )
        tables["words"] = Table(about, rows, details)
    if mteb := notes.evaluations.get("mteb"):
        scores = {task: mteb["figures"][f"{task}_{about['metric']}"] for task, about in mteb["tasks"].items()}
        tables["mteb"] = Table(
            f"Tasks of MTEB (x 100), texts as vectors by `{mteb['weighting']}` of their words.",
            [(f"{task}, {mteb['tasks'][task]['metric']}", f"{score:.2f}") for task, score in scores.items()],
            mteb,
        )
        results += [
            EvalResult(
                task_type=mteb["tasks"][task]["type"],
                task_name=f"MTEB {task}",
                dataset_type=task,
                dataset_name=f"MTEB {task}",
                dataset_split=mteb["tasks"][task]["splits"][0],
                metric_type=mteb["tasks"][task]["metric"],
                metric_value=round(score, 2),
            )
            for task, score in scores.items()
        ]
    return CardParts(
        "word2vec.md.jinja",
        "feature-extraction",
        ["word2vec", "word-embeddings", "sentence-transformers"],
        {"map.png": "Projection plot of the words"},
        tables,
        results,
    )


def _tables(notes: CardNotes, **units: str) -> dict[str, Table]:
    """The figures of all evaluations; `units`: end of a figure's name -> what stands behind its value."""
    tables = {}
    for name, details in notes.evaluations.items():
        rows = []
        for figure, value in details["figures"].items():
            unit = next((unit for end, unit in units.items() if figure.endswith(end)), "")
            rows.append((figure.replace("_", " "), f"{value:.4g}{unit}"))
        tables[name] = Table(str(details.get("protocol", "")), rows, details)
    return tables


def _sha256(details: dict[str, Any], *roles: str) -> str | None:
    """The sha256 of the file that an evaluation read in one of these roles; None for a folder or an unknown one."""
    files = details.get("files", {})
    return next((files[role]["sha256"] for role in roles if "sha256" in files.get(role, {})), None)


FAMILY_CARDS: dict[str, Callable[[CardNotes], CardParts]] = {
    "hfembed_face_embedder": _face_card,
    "hfembed_face_detector": _detector_card,
    "hfembed_retinaface": _detector_card,
    "hfembed_yunet": _detector_card,
    "hfembed_conv_autoencoder": _autoencoder_card,
    "hfembed_appearance_autoencoder": _autoencoder_card,
    "hfembed_restoration_autoencoder": _autoencoder_card,
    "hfembed_face_swap": _swap_card,
    "hfembed_identity_swap": _identity_swap_card,
    "hfembed_word2vec": _word_card,
}
