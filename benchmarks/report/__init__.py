"""What is made of samples: ratios and spreads, a JSON file, Markdown tables, plots."""
