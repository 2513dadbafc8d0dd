"""The vocabulary every layer shares: requests, events, capabilities, and sans-IO text helpers.

Standard library only: this package may be imported anywhere, by anything.
"""
