"""What to change, by what was measured: one module for each rule; docs/advisor.md explains them."""
