"""A thin volume and the headers of its source in, the encoded instances of the derived series out."""
