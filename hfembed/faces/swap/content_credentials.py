"""Content Credentials: a signed C2PA manifest in what was generated, by the user's own certificate."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from hfembed.errors import InputError, first_line
from hfembed.faces.swap.provenance_mark import NOTE, SOURCE_TYPE
from hfembed.version import __version__

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

_MAX_BYTES = 1 << 20
_CURVES = {"secp256r1": b"es256", "secp384r1": b"es384", "secp521r1": b"es512"}


class ContentCredentials:
    """Signs files in place: who vouches for them, and that a trained model changed a part of them.

    The manifest has one action, `c2pa.created` with IPTC's digital source type `compositeWithTrainedAlgorithmicMedia`
    (C2PA specification 2.2, Actions). Nothing is asked of a time stamp server, or of anybody else.

    Args:
        certificate: PEM file: the signer's certificate, then those that vouch for it up to the root.
        key: PEM file: the signer's private key (EC P-256, P-384 or P-521, RSA, Ed25519), without a passphrase.

    Raises:
        InputError: A file is missing or no such file, or the key is not the certificate's.
        ModuleNotFoundError: c2pa-python is not installed.
    """

    def __init__(self, certificate: str | Path, key: str | Path) -> None:
        import c2pa
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        chain, secret = _read(certificate), _read(key)
        try:
            signer = x509.load_pem_x509_certificates(chain)[0]
        except ValueError as error:
            raise InputError(f"{certificate} has no certificate in PEM: {first_line(error)}") from error
        try:
            private = load_pem_private_key(secret, None)
        except TypeError as error:
            raise InputError(f"{key} has a passphrase; give a key without one") from error
        except ValueError as error:
            raise InputError(f"{key} has no private key in PEM: {first_line(error)}") from error
        if private.public_key() != signer.public_key():
            raise InputError(f"{key} is not the key of the first certificate in {certificate}")
        self._info = c2pa.C2paSignerInfo(_algorithm(private, key), chain, secret, None)
        self._certificate = certificate

    def sign(self, path: Path) -> None:
        """Put a signed manifest into a .png, .jpg, .webp, .mp4 or .mov.

        Raises:
            InputError: The certificate may not sign: it has expired, signs itself, or is for another purpose.
            OSError: The file cannot be written.
        """
        import c2pa

        action = {"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE, "description": NOTE}
        manifest = {
            "claim_generator_info": [{"name": "hfembed", "version": __version__}],
            "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
        }
        signed = path.with_name(f"{path.stem}.signed{path.suffix}")
        try:
            with c2pa.Signer.from_info(self._info) as signer, c2pa.Builder(manifest) as builder:
                builder.sign_file(path, signed, signer)
            os.replace(signed, path)
        except c2pa.C2paError as error:
            raise InputError(
                f"{self._certificate} cannot sign: {first_line(error)}; it takes a certificate of a signing authority "
                "for documents or e-mail, with its chain"
            ) from error
        finally:
            signed.unlink(missing_ok=True)


def _read(path: str | Path) -> bytes:
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > _MAX_BYTES:
        raise InputError(f"{path} is larger than {_MAX_BYTES:,} bytes; too large for a certificate or a key")
    return content


def _algorithm(key: "PrivateKeyTypes", path: str | Path) -> bytes:
    """The signature algorithm of C2PA for a kind of key."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        return _CURVES[key.curve.name]
    if isinstance(key, rsa.RSAPrivateKey):
        return b"ps256"
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return b"ed25519"
    raise InputError(f"{path}: expected a key of EC P-256, P-384 or P-521, RSA or Ed25519")
