# SPDX-License-Identifier: Apache-2.0
"""Long work on a host: download weights, compile and fetch artifacts.

The package lives twice: modules import it from the collection to look at results, and role `host_tools` copies it to
/usr/local/lib/trainyard/trainyard_jobs, where systemd units run it. So its parts import each other relatively and use
the standard library alone; the Hugging Face client and boto3 are imported where they are needed.
"""
