"""gan/evaluate.py with a small backbone in the place of Inception-v3, as a process of its own."""

import sys

import gan.evaluate
import gan.quality.paper
from tests.gan.inception_weights import SmallBackbone

gan.evaluate.inception_of = SmallBackbone
gan.quality.paper.KID_SUBSETS = 3
sys.exit(gan.evaluate.run())
