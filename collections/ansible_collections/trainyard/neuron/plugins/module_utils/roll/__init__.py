# SPDX-License-Identifier: Apache-2.0
"""A roll's steps on a host: its lock and its replicas' releases; standard library only, Python 3.9 on."""
