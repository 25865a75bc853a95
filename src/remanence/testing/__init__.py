"""What tests of agents, and of other stores, need: real servers, faults between them, contract suites.

Nothing is imported here, so that each part costs only those who use it.
"""
