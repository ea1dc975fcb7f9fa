"""Makes a certificate for servers of the sandbox that talk to each other."""

import datetime
import ipaddress
from pathlib import Path

from workshop.sandbox.processes import HOST

VALID_FOR = datetime.timedelta(days=3650)


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """Make a new key, and a certificate that the key has signed. Whoever holds the key may present the certificate.

    The certificate is its own authority: it accepts itself and no other certificate.

    Args:
        directory: the folder of the two files, which only this user can read.

    Returns:
        The file of the certificate, and the file of its key.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sandbox")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        # Some days earlier, so that a clock that is set back does not end the sandbox.
        .not_valid_before(now - VALID_FOR)
        .not_valid_after(now + VALID_FOR)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    key_format = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    files = directory / "inner.crt", directory / "inner.key"
    for file, content in zip(files, (certificate.public_bytes(pem), key.private_bytes(pem, *key_format)), strict=True):
        file.unlink(missing_ok=True)
        file.touch(mode=0o600)
        file.write_bytes(content)
    return files
