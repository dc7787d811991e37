# SPDX-License-Identifier: Apache-2.0
"""What of a plan hosts read too: schemas, topologies, versions; standard library only, Python 3.9 on."""
