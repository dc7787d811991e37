# SPDX-License-Identifier: Apache-2.0
"""Calibrations: the latency model's constants fitted to benchmark runs."""
