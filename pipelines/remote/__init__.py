"""Files of object stores and web servers, kept in local sparse files that fill while training."""
