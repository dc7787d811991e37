# SPDX-License-Identifier: Apache-2.0
"""The data volume of a host, over its instance-store disks.

The package lives twice: module `instance_store` imports it from the collection, and role `nvme_raid` copies it to
/usr/local/lib/trainyard/trainyard_storage, where a boot unit runs it. So its parts import each other relatively and
use the standard library alone.
"""
