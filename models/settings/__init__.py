"""Each method's numbers, published training and traits, a file each; imports no torch.

So the command line answers, and refuses what does not fit, at once.
"""
