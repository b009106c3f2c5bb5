"""What other people's tools take: a file each, with how it is written, loaded and checked."""
