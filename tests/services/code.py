"""Zips of code for functions."""

import io
import zipfile


def zip_of(**files: str | bytes) -> bytes:
    """A zip with ``name="text"``; ``index__py`` is ``index.py``. Everything is executable, as a bootstrap must be."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name.replace("__", "."))
            entry.external_attr = 0o755 << 16
            archive.writestr(entry, content)
    return buffer.getvalue()
