# SPDX-License-Identifier: Apache-2.0
"""The planner: pure functions, on the controller, from deployments and topologies to replicas."""
