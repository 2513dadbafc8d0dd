"""Wire formats: one package a dialect, each made of pure functions and sans-IO objects."""
