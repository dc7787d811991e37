# SPDX-License-Identifier: Apache-2.0
"""What a serving host runs beside vLLM: start checks, the gate, the standing probe.

The same files are installed on the hosts (``/usr/local/lib/trainyard/serving``) and used by the modules, so they
import each other relatively, need the standard library only, and run on Python 3.9.
"""
