from .configuration_mae_ast import MAEASTConfig
from .modeling_mae_ast import MAEASTModel

__all__ = ["MAEASTConfig", "MAEASTModel"]
