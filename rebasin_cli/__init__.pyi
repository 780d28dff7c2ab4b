from rebasin_cli.api import (
    Alignment as Alignment,
)
from rebasin_cli.api import (
    Applied as Applied,
)
from rebasin_cli.api import (
    ContentError as ContentError,
)
from rebasin_cli.api import (
    GateError as GateError,
)
from rebasin_cli.api import (
    Inspection as Inspection,
)
from rebasin_cli.api import (
    Interpolation as Interpolation,
)
from rebasin_cli.api import (
    ManyAligned as ManyAligned,
)
from rebasin_cli.api import (
    Merge as Merge,
)
from rebasin_cli.api import (
    Proof as Proof,
)
from rebasin_cli.api import (
    RebasinError as RebasinError,
)
from rebasin_cli.api import (
    RebasinWarning as RebasinWarning,
)
from rebasin_cli.api import (
    Repaired as Repaired,
)
from rebasin_cli.api import (
    Spec as Spec,
)
from rebasin_cli.api import (
    SystemFailure as SystemFailure,
)
from rebasin_cli.api import (
    UnitPermutation as UnitPermutation,
)
from rebasin_cli.api import (
    UsageError as UsageError,
)
from rebasin_cli.api import (
    align as align,
)
from rebasin_cli.api import (
    align_many as align_many,
)
from rebasin_cli.api import (
    apply as apply,
)
from rebasin_cli.api import (
    derive as derive,
)
from rebasin_cli.api import (
    inspect as inspect,
)
from rebasin_cli.api import (
    interpolate as interpolate,
)
from rebasin_cli.api import (
    lerp as lerp,
)
from rebasin_cli.api import (
    merge as merge,
)
from rebasin_cli.api import (
    prove as prove,
)
from rebasin_cli.api import (
    repair as repair,
)

__version__: str
