"""Uploads in parts that nobody will complete: they have no name and are in no listing, but take room that is paid for."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from vlmprep.stores.connection import Connection
from vlmprep.stores.retry import StoreTrouble

__all__ = ["abort_uploads"]


def abort_uploads(url: str) -> int:
    """End the uploads beneath a folder; whoever calls this holds it, so that nobody is at them.

    Only stores that speak S3 have such. One that does not let us look for them, or end them, keeps them: what is published
    does not depend on it.

    Args:
        url: The folder.

    Returns:
        How many were ended.
    """
    connection = Connection(url)
    num_ended = 0
    with suppress(StoreTrouble):
        if connection.is_s3:
            known: set[str] = set()
            # A thousand are told at a time.
            while found := [each for each in waiting(connection) if each["UploadId"] not in known]:
                for upload in found:
                    num_ended += end(connection, upload)
                known.update(each["UploadId"] for each in found)
    return num_ended


def waiting(connection: Connection) -> list[dict[str, Any]]:
    """Uploads that were begun and not completed."""
    bucket, _, key = connection.path("").partition("/")
    call: dict[str, Any] = {"Bucket": bucket, "Prefix": f"{key}/" if key else ""}
    try:
        found = connection.ask(
            lambda: connection.run("call_s3", "list_multipart_uploads", **call), "", "cannot be looked at"
        )
    except FileNotFoundError:  # there is no such bucket
        return []
    return list(found.get("Uploads", []))


def end(connection: Connection, upload: dict[str, Any]) -> bool:
    """End one; whether it was still there."""
    call = {
        "Bucket": connection.path("").partition("/")[0],
        "Key": upload["Key"],
        "UploadId": upload["UploadId"],
    }
    try:
        connection.ask(
            lambda: connection.run("call_s3", "abort_multipart_upload", **call), "", "cannot be rid of an upload"
        )
    except FileNotFoundError:
        return False
    return True
