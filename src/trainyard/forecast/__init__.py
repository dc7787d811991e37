# SPDX-License-Identifier: Apache-2.0
"""Forecasts: what a deployment and its alternatives will do, before a host is paid for."""
