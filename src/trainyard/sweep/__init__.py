# SPDX-License-Identifier: Apache-2.0
"""Sweeps: many configurations of a deployment, each planned, served, measured, and one recommended."""
