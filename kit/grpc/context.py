"""The name of a servicer method's second argument."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import grpc

if TYPE_CHECKING:
    # Generic for the type checker only; at run time gRPC's class takes no parameters.
    ServicerContext: TypeAlias = grpc.aio.ServicerContext[Any, Any]
else:
    ServicerContext = grpc.aio.ServicerContext
