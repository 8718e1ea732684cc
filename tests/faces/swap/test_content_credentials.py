"""Signed manifests: what is signed is verified by the C2PA library, what was changed afterwards is not."""

import datetime
import json

import pytest
from PIL import Image

pytest.importorskip("c2pa", reason='needs pip install "hfembed[credentials]"')

import c2pa
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from typer.testing import CliRunner

from hfembed.cli import app
from hfembed.errors import InputError
from hfembed.faces.swap.clip_files import Clip
from hfembed.faces.swap.clip_swapper import swap_clip
from hfembed.faces.swap.content_credentials import ContentCredentials
from hfembed.faces.swap.provenance_mark import SOURCE_TYPE, save_marked
from tests.faces.swap.test_clip_swapper import circling, draw, frames_of, sound_of, swapper, write  # noqa: F401


def certify(name, key, issuer, issuer_key, days=1):
    """A certificate of an authority where it certifies itself, and of a signer of e-mail otherwise."""
    names = [x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, each)]) for each in (name, issuer)]
    now, is_authority = datetime.datetime.now(datetime.UTC), name == issuer
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
         "decipher_only"), False
    )  # fmt: skip
    usage |= {"digital_signature": not is_authority, "key_cert_sign": is_authority, "crl_sign": is_authority}
    builder = (
        x509.CertificateBuilder(*reversed(names), key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=9))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if not is_authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=True)
    return builder.sign(issuer_key, hashes.SHA256())


def write_credentials(folder, key=None, days=1):
    root, key = ec.generate_private_key(ec.SECP256R1()), key or ec.generate_private_key(ec.SECP256R1())
    chain = [certify("signer", key, "root", root, days), certify("root", root, "root", root)]
    (folder / "chain.pem").write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in chain))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return folder / "chain.pem", folder / "key.pem"


def read_manifest(path):
    with c2pa.Reader(path) as reader:
        report = json.loads(reader.json())
    return report["validation_state"], report["manifests"][report["active_manifest"]]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_picture_is_signed_and_its_change_is_seen(tmp_path, suffix):
    credentials = ContentCredentials(*write_credentials(tmp_path))
    save_marked(Image.new("RGB", (99, 88), "red"), tmp_path / f"a{suffix}", sign=credentials.sign)
    state, manifest = read_manifest(tmp_path / f"a{suffix}")
    assert state == "Valid" and manifest["signature_info"]["issuer"] == "signer"
    (assertion,) = manifest["assertions"]
    assert assertion["data"]["actions"][0]["digitalSourceType"] == SOURCE_TYPE
    assert Image.open(tmp_path / f"a{suffix}").size == (99, 88)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"a{suffix}", "chain.pem", "key.pem"]
    content = bytearray((tmp_path / f"a{suffix}").read_bytes())
    content[content.rindex(b"IDAT") + 9 if suffix == ".png" else -9] ^= 1
    (tmp_path / f"changed{suffix}").write_bytes(content)
    assert read_manifest(tmp_path / f"changed{suffix}")[0] == "Invalid"


@pytest.mark.parametrize("kind", ["P-384", "RSA"])
def test_other_keys(tmp_path, kind):
    key = ec.generate_private_key(ec.SECP384R1()) if kind == "P-384" else rsa.generate_private_key(65537, 2048)
    sign = ContentCredentials(*write_credentials(tmp_path, key)).sign
    save_marked(Image.new("RGB", (9, 9)), tmp_path / "a.png", sign=sign)
    assert read_manifest(tmp_path / "a.png")[0] == "Valid"


def test_a_clip_is_signed(swapper, tmp_path):  # noqa: F811
    clip = write(tmp_path / "clip.mp4", [draw(circling(number)) for number in range(9)])
    sign = ContentCredentials(*write_credentials(tmp_path)).sign
    swap_clip(swapper, Clip(clip), "red", tmp_path / "out.mp4", sign=sign)
    assert read_manifest(tmp_path / "out.mp4")[0] == "Valid"
    assert frames_of(tmp_path / "out.mp4")[0] == frames_of(clip)[0]
    assert sound_of(tmp_path / "out.mp4") == sound_of(clip)


def test_what_cannot_sign_is_one_line(tmp_path):
    chain, key = write_credentials(tmp_path)
    other = tmp_path / "other.pem"
    with pytest.raises(InputError, match="nothing.pem cannot be read: No such file"):
        ContentCredentials(tmp_path / "nothing.pem", key)
    with pytest.raises(InputError, match="key.pem has no certificate in PEM"):
        ContentCredentials(key, key)
    with pytest.raises(InputError, match="chain.pem has no private key in PEM"):
        ContentCredentials(chain, chain)
    other.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    with pytest.raises(InputError, match="other.pem is not the key of the first certificate"):
        ContentCredentials(chain, other)
    secret = ec.generate_private_key(ec.SECP256R1())
    other.write_bytes(secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")))
    with pytest.raises(InputError, match="other.pem has a passphrase"):
        ContentCredentials(chain, other)
    (tmp_path / "expired").mkdir()
    expired = ContentCredentials(*write_credentials(tmp_path / "expired", days=-1))
    with pytest.raises(InputError, match="chain.pem cannot sign"):
        save_marked(Image.new("RGB", (9, 9)), tmp_path / "a.png", sign=expired.sign)
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".png"]


def test_the_command_takes_both_or_neither(tmp_path):
    arguments = ["swap", "model", "photo.png", "ann", str(tmp_path / "a.png"), "--certificate", "chain.pem"]
    assert "takes both" in str(CliRunner().invoke(app, arguments).exception)
