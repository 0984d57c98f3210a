from .configuration_ssamba import SSAMBAConfig
from .modeling_ssamba import SSAMBAModel

__all__ = ["SSAMBAConfig", "SSAMBAModel"]
