# SPDX-License-Identifier: Apache-2.0
"""What hosts are asked before a run, and what their answers mean: on the controller, apart from Ansible."""
