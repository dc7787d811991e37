# SPDX-License-Identifier: Apache-2.0
"""Reports over benchmark runs: analysis, charts, and the pages and tables made of them."""
