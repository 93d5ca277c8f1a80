"""The deep recurrent stacks that come with the model; importing this registers them."""

from .linoss import LinOSSBackbone
from .mamba import MambaBackbone
from .oscillatory import OscillatoryBackbone, TrigOscillatoryBackbone

__all__ = ["LinOSSBackbone", "MambaBackbone", "OscillatoryBackbone", "TrigOscillatoryBackbone"]
