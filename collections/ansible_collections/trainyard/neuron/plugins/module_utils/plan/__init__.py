# SPDX-License-Identifier: Apache-2.0
"""The planner: pure functions from deployments and topologies to replicas; standard library only, Python 3.9 on."""
