"""Names the kind of a file by its first bytes, when it is neither a zip nor a table."""

import re

TAR_MARK = slice(257, 262)
SCANNED_BYTES = 4096
# The first bytes of a file, its kind, and the next step. A signature that is a word, such as ORC, could begin the
# header of a table, as ORCID does. So a byte that no text contains must follow soon.
NO_TEXT = rb".{0,60}?[^\t\r\n -~\x80-\xff]"
UNPACK = "unpack it on your machine and upload the result"
EXPORT = "save its table as CSV and upload that file"
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "a gzip file", "unpack it with `gunzip` and upload the result"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive (7-Zip)", "unpack it, and make a zip of the files"),
    (b"Rar!\x1a\x07", "a RAR archive", "unpack it, and make a zip of the files"),
    (rb"BZh[1-9]1AY&SY", "a bzip2 file", "unpack it with `bunzip2` and upload the result"),
    (b"\xfd7zXZ\0", "an xz file", "unpack it with `unxz` and upload the result"),
    (rb"\x28\xb5\x2f\xfd", "a Zstandard file", "unpack it with `unzstd` and upload the result"),
    (b"\x04\x22\x4d\x18", "an LZ4 file", "unpack it with `lz4 -d` and upload the result"),
    (b"\x1f\x9d", "a file of `compress` (.Z)", "unpack it with `uncompress` and upload the result"),
    (b"PAR1" + NO_TEXT, "a Parquet file", EXPORT),
    (b"ARROW1" + NO_TEXT, "an Arrow file", EXPORT),
    (b"FEA1" + NO_TEXT, "a Feather file", EXPORT),
    (b"ORC" + NO_TEXT, "an ORC file", EXPORT),
    (b"Obj\x01", "an Avro file", EXPORT),
    (b"SQLite format 3\0", "an SQLite database", EXPORT),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Microsoft Office file, such as .xls", EXPORT),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", EXPORT),
    (rb"\$FL2@\(#\)", "an SPSS file", EXPORT),
    (rb"%PDF-\d", "a PDF file", "get the table as CSV from its source"),
    (rb"\{\\rtf", "a rich text file (RTF)", "save it as plain text"),
    (b"\x89PNG\r\n\x1a\n", "a picture (PNG)", "check the key"),
    (b"\xff\xd8\xff", "a picture (JPEG)", "check the key"),
    (b"GIF8[79]a", "a picture (GIF)", "check the key"),
    (b"\x7fELF", "a program (ELF)", "check the key"),
    (b"\x80\x04\x95", "a Python pickle", EXPORT),
    (b"PK\x07\x08", "one part of a zip in several parts", "join the parts with `zip -s 0` and upload the whole zip"),
)
SIGNATURES = tuple((re.compile(signature, re.S), kind, step) for signature, kind, step in _SIGNATURES)
OFFICE_NAMES = ((b"xl/", "an Excel workbook (.xlsx)"), (b"word/", "a Word document (.docx)"))
LFS = re.compile(rb"version https?://(git-lfs|hawser)\.github\.com/spec/v1")
WEB_PAGE = re.compile(rb"\s*(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body|script|title|meta|div)\b", re.I | re.S)
XML = re.compile(rb"\s*<(\?xml\b|Error>|[A-Za-z][\w.:-]*(\s[^<>]*)?/?>(?! *[,;\t|]))", re.S)
S3_ERROR = re.compile(rb"<Error>.*?<Code>([^<]{1,60})</Code>", re.S)
# A word or a number in brackets may be the header of a table, but a quote, or a second bracket, may not.
JSON = re.compile(rb'\s*(\{\s*("[^"\r\n]*"\s*:|\})|\[\s*([\[{\]]|"[^"\r\n]*"\s*[,\]]\s|-?\d[\d.eE+-]*\s*,\s*[-\d]))')


def kind_of(start: bytes, is_zip_expected: bool = False) -> str:
    """Return the kind of a file and the next step, as the end of the sentence "the file is ...".

    Args:
        start: the first bytes of the file; a few kilobytes suffice.
        is_zip_expected: whether the caller wants a zip. Otherwise, a zip is named, too.

    Returns:
        The kind and the next step; "" if the bytes are of no known kind.
    """
    start = start[:SCANNED_BYTES]
    for signature, kind, step in SIGNATURES:
        if signature.match(start):
            return f"{kind}: {step}"
    if start[TAR_MARK] == b"ustar":
        return f"a tar archive: {UNPACK}, as a zip"
    if start.startswith(b"PK\x03\x04") and not is_zip_expected:
        return _kind_of_zip(start)
    return _kind_of_text(start)


def _kind_of_zip(start: bytes) -> str:
    for name, kind in OFFICE_NAMES:
        if name in start:
            return f"{kind}: {EXPORT}"
    if b"[Content_Types].xml" in start:
        return f"a Microsoft Office file, such as .xlsx: {EXPORT}"
    if b"mimetypeapplication/vnd.oasis" in start:
        return f"an OpenDocument file, such as .ods: {EXPORT}"
    return "a zip: unpack it with `unzip_func` first, and set csv_name to a CSV file"


def _kind_of_text(start: bytes) -> str:
    text = start.removeprefix(b"\xef\xbb\xbf")
    if text.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = text.decode("utf-16", errors="ignore").encode(errors="ignore")
    if LFS.match(text):
        return "a Git LFS pointer, not the data: get the data with `git lfs pull` and upload that file"
    if error := S3_ERROR.search(text[:2000]) if XML.match(text) else None:
        code = error.group(1).decode(errors="replace")
        return f"an error of S3 in XML ({code}), not the data: the download failed, so get the file again"
    if WEB_PAGE.match(text):
        return "a web page (HTML): the download needs a login or another address, so get the file again"
    if XML.match(text):
        return f"XML: {EXPORT}"
    if JSON.match(text):
        return f"JSON: {EXPORT}"
    return ""
