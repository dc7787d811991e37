# SPDX-License-Identifier: Apache-2.0
"""The lab: stand-in Trainium hosts in containers, and the services beside them."""
