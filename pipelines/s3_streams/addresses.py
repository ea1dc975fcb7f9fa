"""Checks of the names of buckets, keys and prefixes that a caller gives."""

import re

# A double slash may have been joined to one before the check.
ADDRESS = re.compile(
    r"(?:(s3|s3a|s3n|minio|gs)|(https?)):/+([^/]*)/*(.*)|(arn):[^:]*:s3:[^:]*:[^:]*:([^/]*)/?(.*)", re.I
)
# SeaweedFS, the S3 of the sandbox and of Kubeflow, keeps its own data in these folders, and lists no key below them.
HIDDEN_FOLDER = re.compile(r"(?:^|/)([.]uploads|[^/]*[.]versions)/")
# The end of the host in the addresses of Amazon S3: BUCKET.s3.REGION.amazonaws.com.
VIRTUAL_HOST = re.compile(r"(.+?)[.]s3[.-].*amazonaws[.]com([.]cn)?", re.I)


def check_bucket(bucket: str, argument: str = "bucket_name") -> None:
    """Check the name of a bucket.

    Args:
        bucket: the name.
        argument: the name of the argument, for messages.

    Raises:
        ValueError: the name is an address or has a slash; the message says which part to use.
    """
    if found := _parts(bucket):
        raise ValueError(f"{argument} is the address {bucket!r}; it must be the name of the bucket alone: {found[0]!r}")
    if "/" in bucket:
        name = bucket.strip("/").partition("/")[0]
        raise ValueError(f"{argument} is {bucket!r}; it must be the name of the bucket alone, such as {name!r}")
    if not bucket.strip():
        raise ValueError(f"{argument} is empty; it must be the name of a bucket")


def check_key(value: str, bucket: str, argument: str) -> None:
    """Check a key, a prefix, or the name of a file below a prefix.

    Args:
        value: the key, prefix or name.
        bucket: the bucket that the caller gives.
        argument: the name of the argument, for messages.

    Raises:
        ValueError: the value is an address; the message says which part to use.
    """
    if found := _parts(value):
        other = "" if found[0] == bucket else f", and bucket_name must be {found[0]!r}"
        raise ValueError(
            f"{argument} is the address {value!r}; it must be the part after the bucket: {found[1]!r}{other}"
        )


def hidden_folder(key: str) -> str:
    """Return the folder in a key whose content SeaweedFS does not list; "" if there is none."""
    found = HIDDEN_FOLDER.search(key)
    return found.group(1) if found else ""


def _parts(value: str) -> tuple[str, str] | None:
    """Return bucket and key of an address; None if the value is not an address."""
    found = ADDRESS.match(value.strip())
    if found is None:
        return None
    _, web, host, key, arn, arn_bucket, arn_key = found.groups()
    if arn:
        return arn_bucket, arn_key
    if web:
        key = key.partition("?")[0]
        if virtual := VIRTUAL_HOST.fullmatch(host):
            return virtual.group(1), key
        host, _, key = key.partition("/")
    return host, key
