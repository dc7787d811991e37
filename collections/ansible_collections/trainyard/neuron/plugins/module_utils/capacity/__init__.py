# SPDX-License-Identifier: Apache-2.0
"""Capacity blocks: what EC2 offers and what is owned, bought only on a person's word, launched into, and left in time.

Runs on the controller, on boto3's clients. What decides is pure and has no client: offers, the end, launches, refusals.
"""
