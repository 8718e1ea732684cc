"""The page as a program and as a person in a browser use it."""

import dataclasses
import http.client
import json
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from PIL import Image

from hfembed.cli import main
from hfembed.errors import InputError
from hfembed.faces.swap.provenance_mark import NOTE
from hfembed.index.embedding_index import EmbeddingIndex
from hfembed.index.origin import Origin
from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel
from hfembed.models.face_swap.configuration_face_swap import FaceSwapConfig
from hfembed.models.face_swap.modeling_face_swap import FaceSwapModel
from hfembed.models.word2vec.configuration_word2vec import Word2VecConfig
from hfembed.models.word2vec.modeling_word2vec import Word2VecModel
from hfembed.models.word2vec.vocabulary_word2vec import Vocabulary
from tests.faces.conftest import analyzer, draw, folder  # noqa: F401
from tests.images.tiny_autoencoder import SIZE, save_tiny_autoencoder, smooth_images

pytest.importorskip("gradio", reason='the page needs gradio: pip install "hfembed[demo]"')

THRESHOLDS = {
    "data": "synthetic faces",
    "impostors": 30_000,
    "accuracy": 0.9,
    "far": {"0.01": 0.95, "0.001": 0.98},
    "calibration": {"slope": 50.0, "intercept": -47.0},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("models")
    config = FaceEmbedderConfig(
        trunk="iresnet",
        trunk_arguments={"depths": [1, 1, 1, 1], "widths": [8, 8, 8, 8]},
        image_size=[32, 32],
        embedding_size=16,
        bn_neck=False,
        thresholds=THRESHOLDS,
    )
    FaceEmbedderModel(config).save_pretrained(place / "faces")
    FaceImageProcessor(size=[32, 32]).save_pretrained(place / "faces")
    words = Word2VecModel(
        Word2VecConfig(vocab_size=4, embedding_size=2), Vocabulary(["king", "queen", "man", "woman"], [4, 3, 2, 1])
    )
    with torch.no_grad():
        words.embeddings.weight.copy_(torch.tensor([[1.0, 0.9], [1.0, 0.7], [0.0, 1.0], [0.1, -1.0]]))
    words.save_pretrained(place / "words")
    return place


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two photos of each of two people, and a file that is no picture."""
    place = tmp_path_factory.mktemp("photos")
    for person, name in enumerate(("Ann", "Bob")):
        texture = np.random.default_rng(person + 3).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        face = np.asarray(Image.fromarray(texture).resize((64, 64), Image.Resampling.BICUBIC), dtype=np.int16)
        for number in (1, 2):
            noise = np.random.default_rng((person, number)).integers(-4, 5, face.shape)
            Image.fromarray((face + noise).clip(0, 255).astype(np.uint8)).save(place / f"{name}_{number}.png")
    (place / "broken.png").write_bytes(b"no picture at all")
    return place


@pytest.fixture(scope="module")
def page(models):
    from hfembed.demo.page import serve

    page = serve([str(models / "faces"), str(models / "words")], device="cpu", block=False)
    yield page
    page.close()
    assert not page.uploads.exists()


@pytest.fixture(scope="module")
def client(page, tmp_path_factory):
    from gradio_client import Client

    return Client(page.local_url, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))


def test_two_photos_are_compared_at_the_rate_asked_for(client, photos):
    from gradio_client import handle_file

    a, b, other = (handle_file(photos / name) for name in ("Ann_1.png", "Ann_2.png", "Bob_1.png"))
    answer = client.predict(a, b, 0.001, api_name="/verify")
    assert answer.startswith("## The same person") and "threshold 0.980 (one false accept in 1,000" in answer
    assert "measured on synthetic faces" in answer and "probability" in answer
    assert client.predict(a, other, 0.01, api_name="/verify").startswith("## Two people")


def test_a_person_is_found_among_the_photos_given(client, photos):
    from gradio_client import handle_file

    people = [handle_file(photos / name) for name in ("Ann_1.png", "Bob_1.png")]
    answer, table, basis = client.predict(handle_file(photos / "Bob_2.png"), people, 0.01, api_name="/identify")
    assert (
        answer == "It is Bob"
        and "threshold 0.950 (one false accept in 100 pairs, measured on synthetic faces" in basis
    )
    assert [row[0] for row in table["data"]] == ["Bob", "Ann"] and table["data"][1][2] == "no"
    answer, *_ = client.predict(handle_file(photos / "Bob_2.png"), people[:1], 0.01, api_name="/identify")
    assert answer == "Unknown"


def test_words_have_neighbors_and_analogies(client):
    table = client.predict("king", api_name="/neighbors")
    assert table["data"][0][0] == "queen"
    assert client.predict("man", "king", "woman", api_name="/analogy")["data"][0][0] == "queen"


@pytest.mark.parametrize(
    ("endpoint", "arguments", "message"),
    [("/neighbors", ["xylophone"], "xylophone"), ("/verify", [None, None, 0.01], "choose two photos first")],
)
def test_what_is_wrong_is_said_in_one_line(client, endpoint, arguments, message):
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match=message) as error:
        client.predict(*arguments, api_name=endpoint)
    assert "Traceback" not in str(error.value)


@pytest.mark.attack
def test_no_photo_is_kept_and_nobody_else_can_reach_the_page(page, client, photos):
    from gradio_client import handle_file

    a = handle_file(photos / "Ann_1.png")
    client.predict(a, a, 0.01, api_name="/verify")
    assert page.local_url.startswith("http://127.0.0.1:") and page.share_url is None
    assert page.delete_cache[1] <= 600 and page.max_file_size <= 10 * 2**20
    assert list(page.uploads.rglob("*.png")), "uploads lie in the page's own folder, which goes with it"


def get(page, path="/", **headers):
    address = urlsplit(page.local_url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


@pytest.mark.attack
def test_only_requests_that_name_the_pages_own_address_are_answered(page):
    port = urlsplit(page.local_url).port
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}", "LOCALHOST"):
        status, text = get(page, Host=host)
        assert status == 200 and b"gradio" in text, host
    for host in (f"rebound.example:{port}", "127.0.0.1.example", "[::1]x", "localhost@evil.example", "10.0.0.7", ""):
        for path in ("/", "/config", "/gradio_api/info"):
            status, text = get(page, path, Host=host)
            assert status == 421 and b"gradio" not in text, host


def test_a_page_for_others_answers_to_addresses_and_its_spaces_name(monkeypatch):
    from hfembed.demo.server import HostCheck

    def is_own(check, host):
        return check._is_own({"headers": [(b"host", host.encode())]})

    monkeypatch.setenv("SPACE_HOST", "ann-page.hf.space")
    check = HostCheck(None, "0.0.0.0")
    assert all(is_own(check, host) for host in ("ann-page.hf.space", "192.168.1.7:7860", "[fe80::1]:80", "localhost"))
    assert not is_own(check, "evil.example:7860")
    assert not check._is_own({"headers": []}) and not check._is_own({"headers": [(b"host", b"localhost")] * 2})
    assert is_own(HostCheck(None, "page.lan"), "page.lan:80") and not is_own(HostCheck(None, "page.lan"), "10.0.0.7")


def test_an_upload_that_is_not_an_image_says_so(client, photos, tmp_path):
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    (tmp_path / "drawing.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    shutil.copy(tmp_path / "drawing.eps", tmp_path / "drawing.png")
    for file in (photos / "broken.png", tmp_path / "drawing.png"):
        with pytest.raises(AppError) as error:
            client.predict(handle_file(file), handle_file(photos / "Ann_1.png"), 0.01, api_name="/verify")
        assert file.name in str(error.value) and "not an image" in str(error.value)
        assert "/" not in str(error.value).replace(file.name, ""), "no place on the disk is told"


def post(page, path, body):
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(page.local_url).port, timeout=30)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, answer.read()


@pytest.mark.attack
@pytest.mark.parametrize("route", ["/gradio_api/call/verify", "/gradio_api/run/verify", "/gradio_api/queue/join"])
def test_a_url_or_a_foreign_path_in_place_of_an_upload_is_refused_and_nothing_is_fetched(
    page, photos, monkeypatch, route
):
    from gradio import processing_utils

    async def fetch(url, cache_dir):
        fetched.append(url)
        raise OSError("no request leaves in tests")

    fetched = []
    monkeypatch.setattr(processing_utils, "async_ssrf_protected_download", fetch)
    own, meta = str(page.uploads / "a" / "b.png"), {"_type": "gradio.FileData"}
    for file in (
        {"path": "https://example.com/a.png"},
        {"path": "http://127.0.0.1:9/a.png"},
        {"path": str(photos / "Ann_1.png")},
        {"path": f"{page.uploads}/../a.png"},
        {"path": own, "url": "https://example.com/gradio_api/file=/etc/passwd"},
        {"path": own, "url": "https://example.com/a.png"},
        {"path": None, "url": "data:image/png;base64,AAAA"},
    ):
        status, text = post(page, route, {"data": [{**file, "meta": meta}, None, 0.01], "session_hash": "s"})
        assert status == 400 and b"the request names a" in text, (file, status, text)
    assert post(page, route, {"data": ["x" * (2 << 20)]})[0] == 413
    assert not fetched


def test_refused_and_forgotten_uploads_are_deleted(page, tmp_path):
    from hfembed.demo.server import delete_old

    port, big = urlsplit(page.local_url).port, b"x" * (9 << 20)
    body = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + big + b"\r\n--b--\r\n"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/gradio_api/upload", body, {"Content-Type": "multipart/form-data; boundary=b"})
    assert connection.getresponse().status == 413
    for path in ("refused", "uploading", "a/whole.png", "a/old.png"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(b"x")
    ages = {"refused": 60, "uploading": 5, "whole.png": 60, "old.png": 400}
    delete_old(tmp_path, lambda file: ages[file.name])
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"uploading", "whole.png"}


SERVE = """
import sys
sys.argv[0] = "hfembed"  # as the command, which imports no torch for this
from hfembed.demo.server import ended_by_signals, upload_folder
with ended_by_signals(), upload_folder() as folder:
    (folder / "photo.png").write_bytes(b"x")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.mark.multiprocess
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_terminated_server_leaves_no_upload_and_the_next_removes_those_of_a_killed_one(tmp_path):
    def start():
        server = subprocess.Popen(
            [sys.executable, "-c", SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )  # fmt: skip
        return server, Path(server.stdout.readline().strip())

    killed, left = start()
    killed.kill()
    killed.wait()
    assert (left / "photo.png").exists()
    ended, uploads = start()
    assert (uploads / "photo.png").exists() and not left.exists()
    ended.terminate()
    assert ended.wait(30) == 128 + 15 and not uploads.exists()


def test_models_that_do_not_go_together_are_refused(models, tmp_path):
    from hfembed.demo.page import build_page

    faces, words = str(models / "faces"), str(models / "words")
    with pytest.raises(InputError, match="models of one family"):
        build_page([words, words], device="cpu")
    with pytest.raises(InputError, match="no model; give"):
        build_page([])
    with pytest.raises(InputError, match="a gallery needs the face model"):
        build_page([words], gallery="somewhere", device="cpu")
    shutil.copytree(faces, tmp_path / "faces")
    config = json.loads((tmp_path / "faces" / "config.json").read_text())
    (tmp_path / "faces" / "config.json").write_text(json.dumps({**config, "thresholds": None}))
    with pytest.raises(InputError, match="has no thresholds"):
        build_page([str(tmp_path / "faces")], device="cpu")


def test_a_gallery_of_another_model_is_refused(models, tmp_path):
    from hfembed.demo.page import build_page

    faces = str(models / "faces")
    own = Origin.of(FaceEmbedderModel.from_pretrained(faces), mirror="none")
    for size, origin, message in (
        (16, Origin("ann/another", "a" * 64), "made by another model: its weights are a{12} .ann/another"),
        (16, dataclasses.replace(own, settings={"mirror": "sum"}), "its mirror is 'sum'"),
        (32, Origin("ann/another"), "have 32 dimensions, the model's have 16"),
        (16, own, None),
    ):
        gallery = EmbeddingIndex(origin=origin)
        gallery.add(np.eye(size), [f"person {number}" for number in range(size)])
        gallery.save(tmp_path / "gallery")
        with nullcontext() if message is None else pytest.raises(InputError, match=message):
            build_page([faces], gallery=str(tmp_path / "gallery"), device="cpu")


@pytest.fixture(scope="module")
def picture_models(tmp_path_factory):
    """An autoencoder, and a face swap model that draws plain red or plain blue faces."""
    place = tmp_path_factory.mktemp("picture-models")
    save_tiny_autoencoder(place / "autoencoder", num_channels=3)
    settings = {"image_size": 32, "encoder_widths": [6, 8], "decoder_widths": [8, 6], "latent_size": 10}
    swap = FaceSwapModel(FaceSwapConfig(people=["red", "blue"], **settings))
    with torch.no_grad():
        for decoder, color in zip(swap.decoders, ([9.0, -9.0, -9.0], [-9.0, -9.0, 9.0]), strict=True):
            decoder.output.weight.zero_()
            decoder.output.bias.copy_(torch.tensor(color))
    swap.save_pretrained(place / "swap")
    FaceImageProcessor(size=32, image_mean=0.0, image_std=1.0).save_pretrained(place / "swap")
    return place


@pytest.fixture(scope="module")
def whole_photos(tmp_path_factory):
    """Photos with faces somewhere in them: each one's file is named after who is on it."""
    place = tmp_path_factory.mktemp("whole-photos")
    for name, person, size in (("Ann_1", 1, (160, 120)), ("Ann_2", 1, (220, 150)), ("Bob_1", 2, (160, 120))):
        draw((50, 30), person=person, size=size).save(place / f"{name}.png")
    draw().save(place / "nobody.png")
    return place


@pytest.fixture(scope="module")
def picture_page(analyzer, folder, picture_models, whole_photos, tmp_path_factory):  # noqa: F811
    """A page with a detector, whose gallery was calibrated, and with the models that draw."""
    from hfembed.demo.page import serve

    gallery = EmbeddingIndex()
    found = analyzer([str(whole_photos / "Ann_1.png"), str(whole_photos / "Bob_1.png")], "only")
    gallery.add(np.stack([photo.faces[0].embedding for photo in found]), ["Ann", "Bob"])
    strangers = np.random.default_rng(0).normal(size=(40, gallery.dimension))
    gallery.calibrate(strangers, data="40 random directions")
    place = tmp_path_factory.mktemp("gallery") / "index"
    gallery.save(place)
    models = [str(folder), str(picture_models / "autoencoder"), str(picture_models / "swap")]
    page = serve(models, str(place), device="cpu", block=False)
    yield page, gallery
    page.close()


@pytest.fixture(scope="module")
def picture_client(picture_page, tmp_path_factory):
    from gradio_client import Client

    page, _ = picture_page
    return Client(page.local_url, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))


def test_faces_are_found_in_whole_photos(picture_client, whole_photos):
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    ann, again, bob, nobody = (
        handle_file(whole_photos / f"{name}.png") for name in ("Ann_1", "Ann_2", "Bob_1", "nobody")
    )
    assert picture_client.predict(ann, again, 0.01, api_name="/verify").startswith("## The same person")
    assert picture_client.predict(ann, bob, 0.01, api_name="/verify").startswith("## Two people")
    with pytest.raises(AppError) as error:
        picture_client.predict(ann, nobody, 0.01, api_name="/verify")
    assert str(error.value) == "nobody.png: no face was found", "no place on the disk is told"


def test_a_calibrated_gallery_decides_by_its_own_threshold(picture_page, picture_client, whole_photos):
    from gradio_client import handle_file

    threshold = picture_page[1].threshold(0.1)
    photo = handle_file(whole_photos / "Ann_2.png")
    answer, table, basis = picture_client.predict(photo, None, 0.1, api_name="/identify")
    assert answer == "It is Ann" and [row[0] for row in table["data"]] == ["Ann", "Bob"]
    assert f"threshold {threshold:.3f} (one search for a stranger in 10 names somebody" in basis
    assert "40 random directions" in basis


def test_a_face_turns_into_another(picture_client, tmp_path):
    from gradio_client import handle_file

    for number, image in enumerate(smooth_images(2, 3)):
        pixels = (255 * image).permute(1, 2, 0).to(torch.uint8).numpy()
        Image.fromarray(pixels).resize((40, 40)).save(tmp_path / f"{number}.png")
    a, b = handle_file(tmp_path / "0.png"), handle_file(tmp_path / "1.png")
    shown = picture_client.predict(a, b, 5, api_name="/morph")
    frames = [np.asarray(Image.open(entry["image"]).convert("RGB")).astype(int) for entry in shown]
    assert len(frames) == 5 and frames[0].shape == (SIZE, SIZE, 3)
    ends = np.abs(frames[0] - frames[-1]).mean()
    assert ends > 0 and all(np.abs(frame - frames[0]).mean() <= ends for frame in frames)


def test_a_swapped_face_is_marked(picture_client, whole_photos):
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    shown = picture_client.predict(handle_file(whole_photos / "Bob_1.png"), "blue", api_name="/swap")
    before = np.asarray(Image.open(whole_photos / "Bob_1.png")).astype(int)
    with Image.open(shown) as picture:
        assert picture.text["Description"] == NOTE
        after = np.asarray(picture.convert("RGB")).astype(int)
    assert after.shape == before.shape and np.array_equal(after[:20], before[:20])
    face = np.abs(after - before)[40:64, 60:84]
    assert face.mean() > 10, "the middle of the face was drawn anew"
    assert (after[-10:, -20:] != before[-10:, -20:]).any(), "a label is written into the corner"
    with pytest.raises(AppError, match="^no face was found in nobody.png"):
        picture_client.predict(handle_file(whole_photos / "nobody.png"), "red", api_name="/swap")


def test_a_swap_model_needs_a_detector(picture_models, models):
    from hfembed.demo.page import build_page

    with pytest.raises(InputError, match="needs a detector"):
        build_page([str(models / "faces"), str(picture_models / "swap")], device="cpu")


@pytest.mark.slow
def test_a_person_in_a_browser_uploads_clicks_and_reads(page, photos, tmp_path):
    """In headless Chromium: Debian's chromium and chromium-driver, with selenium."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="the browser test needs selenium")
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        pytest.skip("the browser test needs chromium and chromedriver: apt-get install chromium chromium-driver")
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,1300"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        browser.get(page.local_url)
        wait = WebDriverWait(browser, 120)

        def upload(place, file):
            chosen = f"#{place} input[type=file]"
            wait.until(lambda _: browser.find_elements(By.CSS_SELECTOR, chosen))[0].send_keys(str(photos / file))
            wait.until(lambda _: browser.find_elements(By.CSS_SELECTOR, f"#{place} img"))

        def read(place, text):
            wait.until(lambda _: text in browser.find_element(By.ID, place).text)

        upload("verify-a", "Ann_1.png")
        upload("verify-b", "Ann_2.png")
        browser.find_element(By.ID, "verify-button").click()
        read("verify-answer", "The same person")
        browser.save_screenshot(str(tmp_path / "verify.png"))

        browser.find_element(By.XPATH, "//button[@role='tab'][contains(., 'Words')]").click()
        box = wait.until(lambda _: browser.find_elements(By.CSS_SELECTOR, "#word textarea, #word input"))[0]
        wait.until(lambda _: box.is_displayed())
        box.send_keys("king")
        browser.find_element(By.ID, "word-button").click()
        read("word-answer", "queen")
        browser.save_screenshot(str(tmp_path / "words.png"))
    finally:
        browser.quit()


def test_the_command_needs_a_model(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["hfembed", "demo", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1 and "nowhere: no such folder" in capsys.readouterr().err
