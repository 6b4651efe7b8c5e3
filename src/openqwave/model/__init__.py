"""The vocabulary: flows, marks, rates, endpoints, errors, estimates. No IO, no clock."""
