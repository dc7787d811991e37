# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the Neuron SDK: its commands, paths, devices, rules and failures, on a host that has no Neuron device.

Runs on the system Python (3.11 or newer) with the standard library alone. What it imitates, and how far, is in
``docs/lab.md``; each behaviour has a test of its own under ``tests/lab``.
"""
