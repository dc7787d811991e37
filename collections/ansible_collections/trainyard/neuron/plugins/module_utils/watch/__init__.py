# SPDX-License-Identifier: Apache-2.0
"""What a host says of itself to Prometheus, beside what AWS's exporter says of its devices.

The same files are installed on the hosts (``/usr/local/lib/trainyard/exporter_parts``, with what they use of
`serving` and `roll`), so they import each other relatively, need the standard library only, and run on Python 3.9.
"""
