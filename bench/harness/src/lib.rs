//! Load generators, scenarios and comparisons.
