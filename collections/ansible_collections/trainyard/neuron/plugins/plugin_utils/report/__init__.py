# SPDX-License-Identifier: Apache-2.0
"""A benchmark's result, on the controller: its schema, and what makes, reads and prints one."""
