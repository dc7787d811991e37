# SPDX-License-Identifier: Apache-2.0
"""Load against a fleet, with every request accounted for: the servers' counters, the clients, one run."""
