"""What HR and BAT training do, measured: ``python -m experiments.study``.

Small networks on real images, three seeds of everything. A seed draws the training images, the flipped labels, the
weights and the order. Every network is a fastat run folder, trained once, kept, and continued if it was interrupted.
"""
