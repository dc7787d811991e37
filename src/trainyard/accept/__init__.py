# SPDX-License-Identifier: Apache-2.0
"""Acceptance: what the product relies on of a host, checked there, as one report."""
