# SPDX-License-Identifier: Apache-2.0
"""What a fleet's plan needs from outside, in one directory that can be carried to where nothing else comes from."""
