"""The names of features in recipes and commands: a layer of VGG19 and, after an @, the side of resized images.

The layers themselves are in ``features``, which needs torch. Reading a recipe does not: the loader process reads one.
"""

from __future__ import annotations

import re

SPEC = re.compile(r"vgg19:(?P<layer>(?:conv|relu)[1-5]_[1-4]|pool[1-5])(?:@(?P<side>[1-9][0-9]{1,3}))?")
SPEC_HINT = "Name a layer such as vgg19:relu3_4 or vgg19:pool4@224."
