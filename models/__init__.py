"""Networks, losses and optimizers: from a ``Batch`` to loss terms.

``methods`` holds the self-supervised methods, a file each; ``losses`` the loss functions that
several of them share; ``modules`` their parts with parameters or state. Of ``pipelines``, only the
``Batch`` contract is imported.
"""
