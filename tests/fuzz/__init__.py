# SPDX-License-Identifier: Apache-2.0
"""Inputs that a user's files, hosts and programs can hold, for every parser and every schema of settings."""

import trainyard.paths  # noqa: F401 - makes the collection importable
