# SPDX-License-Identifier: Apache-2.0
"""The services beside the lab's hosts: what they find of the outside world."""
