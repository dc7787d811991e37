# SPDX-License-Identifier: Apache-2.0
"""Work on hosts that needs no order among them, spread over several execution nodes."""
