"""Certificates that the product does not make."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from plexspaces_node.certificates import Pair


def ended(pair: Pair, authority: Pair, *, days_ago: float = 1) -> Pair:
    """The same certificate, with an end that has passed."""
    found = x509.load_pem_x509_certificate(pair.certificate)
    signing = serialization.load_pem_private_key(authority.key, password=None)
    assert isinstance(signing, ec.EllipticCurvePrivateKey)
    end = datetime.now(UTC) - timedelta(days=days_ago)
    builder = (
        x509.CertificateBuilder()
        .subject_name(found.subject)
        .issuer_name(found.issuer)
        .public_key(found.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(end - timedelta(days=30))
        .not_valid_after(end)
    )
    for extension in found.extensions:
        builder = builder.add_extension(extension.value, critical=extension.critical)
    made = builder.sign(signing, hashes.SHA256())
    return Pair(made.public_bytes(serialization.Encoding.PEM), pair.key)


def serial_of(der: bytes) -> str:
    """The serial number of a certificate, in hexadecimal digits."""
    return f"{x509.load_der_x509_certificate(der).serial_number:x}"
