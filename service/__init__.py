"""The online side: scores candidates per request with what training exported.

Never loads torch or `training`. ONNX Runtime reports its use to its maker unless told not to, before it is loaded.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
