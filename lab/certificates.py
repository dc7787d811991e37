# SPDX-License-Identifier: Apache-2.0
"""Makes an authority and a certificate of it for the names on standard input, one a line.

Standard output is JSON: the certificate of the authority, then that of the server with its key, as PEM. The key of the
authority is kept by nobody.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

#: A lab is younger than this; a certificate that expired under somebody's lab would look like a fault of theirs.
_DAYS = 3650


def make(hosts: list[str]) -> tuple[str, str]:
    """Return the authority's certificate, and the server's with its key.

    Args:
        hosts: names and addresses that the server has.
    """
    key, certificate = _authority()
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), _server(key, certificate, hosts)


def _builder(subject: str, issuer: x509.Name | None, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer or name)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        # A machine's clock may have been set while the lab was made.
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
    )


def _authority() -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    made = (
        _builder("trainyard lab", None, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return key, made


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _server(authority: ec.EllipticCurvePrivateKey, issuer: x509.Certificate, hosts: list[str]) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    listed: list[x509.GeneralName] = []
    for host in hosts:
        is_address = host.replace(".", "").isdigit()
        listed.append(x509.IPAddress(ipaddress.ip_address(host)) if is_address else x509.DNSName(host))
    made = (
        _builder("the world of a trainyard lab", issuer.subject, key.public_key())
        .add_extension(x509.SubjectAlternativeName(listed), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
        .sign(authority, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return made.public_bytes(serialization.Encoding.PEM).decode() + private.decode()


if __name__ == "__main__":
    print(json.dumps(make(sys.stdin.read().split())))
