# SPDX-License-Identifier: Apache-2.0
"""Rolling a fleet from one release to the next: the decisions, on the controller, apart from Ansible."""
