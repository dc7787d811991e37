# SPDX-License-Identifier: Apache-2.0
"""What is watched for, and what is done about it."""
