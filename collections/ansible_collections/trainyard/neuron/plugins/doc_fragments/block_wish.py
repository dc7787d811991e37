# SPDX-License-Identifier: Apache-2.0
"""The words by which offers of capacity blocks are searched, and who asks AWS."""

from __future__ import annotations


class ModuleDocFragment:
    """Documentation of a search."""

    DOCUMENTATION = r"""
options:
  instance_type:
    description: Type of the block's hosts, such as C(trn2.48xlarge).
    type: str
  instance_count:
    description: Hosts of the block, 1 to 64.
    type: int
    default: 1
  hours:
    description: >-
      How long, in hours; whole days up to 14, then whole weeks up to 182 days. An offer that starts at once lasts a
      little less or more, because all end at 11:30 UTC.
    type: int
  earliest_start:
    description: ISO time before which no offer may begin, at most eight weeks ahead; the default is now.
    type: str
  latest_end:
    description: ISO time after which no offer may end.
    type: str
  budget:
    description: The most that may be paid in all, in the offer's currency.
    type: str
"""
