# SPDX-License-Identifier: Apache-2.0
"""Puts adapters and a draft into the bucket of a lab: real LoRA weights and a real model, which differ by their seeds.

`python -m tests.options.checkpoints` fills the lab that TRAINYARD_LAB names.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import boto3
import botocore.exceptions

from lab import tiny_adapter, tiny_model
from trainyard.lab.state import BUCKET
from trainyard.paths import ROOT

#: The lab's own bucket, whose real name its hosts know, and the folder of these in it.
PLACE = f"{BUCKET}/options"
#: Folder below it -> the seed of the adapter in it.
ADAPTERS = {"support/v1": 1, "sql/v1": 2, "sql/v2": 3}
DRAFT = "draft/v1"


def endpoint(lab: str) -> str:
    """Where a lab keeps its buckets."""
    argv = [sys.executable, str(ROOT / "inventory/lab/hosts.py"), "--list"]
    environment = {**os.environ, "TRAINYARD_LAB": lab}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
    return str(json.loads(done.stdout)["all"]["vars"]["lab_s3_url"])


def fill(lab: str) -> None:
    """Make the bucket and everything in it; what is there already is written over with the same."""
    store = boto3.client(
        "s3",
        endpoint_url=endpoint(lab),
        aws_access_key_id="lab",
        aws_secret_access_key="lab",
        region_name="us-east-1",
    )
    try:
        store.create_bucket(Bucket=BUCKET)
    except botocore.exceptions.ClientError as error:
        if error.response["Error"]["Code"] not in ("BucketAlreadyExists", "BucketAlreadyOwnedByYou"):
            raise
    for folder, seed in ADAPTERS.items():
        for name, content in tiny_adapter.files(seed).items():
            store.put_object(Bucket=BUCKET, Key=f"options/{folder}/{name}", Body=content)
    with tempfile.TemporaryDirectory() as made:
        tiny_model.make(Path(made), tiny_model.FIRST_SEED + 2)
        for file in sorted(Path(made).iterdir()):
            store.put_object(Bucket=BUCKET, Key=f"options/{DRAFT}/{file.name}", Body=file.read_bytes())


if __name__ == "__main__":
    fill(os.environ["TRAINYARD_LAB"])
