"""Time to quality: how long several seeds take to images of a quality, by rules that others can follow."""
