# SPDX-License-Identifier: Apache-2.0
"""The router's side: HAProxy's run-time socket and vllm-router's workers, for modules and a program on its host.

The same files are installed on the router (``/usr/local/lib/trainyard/routing``), so they import each other relatively,
need the standard library only, and run on Python 3.9.
"""
