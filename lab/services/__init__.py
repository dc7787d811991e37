# SPDX-License-Identifier: Apache-2.0
"""The services beside the lab's hosts: AWS interfaces and a model hub."""
