"""The papers' theory as experiments, one module each."""
