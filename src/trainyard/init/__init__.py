# SPDX-License-Identifier: Apache-2.0
"""`trainyard init`: a first inventory for the hosts that somebody has."""
