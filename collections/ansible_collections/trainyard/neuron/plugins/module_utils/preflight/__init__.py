# SPDX-License-Identifier: Apache-2.0
"""What a host finds of itself before a run, and reaches from where it is."""
