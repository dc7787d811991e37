# SPDX-License-Identifier: Apache-2.0
"""What a configuration will do, before it is paid for: a latency model, its errors, and what follows from both."""
