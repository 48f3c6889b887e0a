"""The operator's verbs, for commands, the admin and scripts alike.

All are synchronous, and none is for an event loop. Where a verb belongs to queues, a queue's name stands for its lines,
too, and a line's (``user.42/phone-7f3a``) for that device alone. All raise InvalidMessage for what cannot be meant,
before anything is done, and StoreUnavailable; what was done by then stays done, and the verb may be called again.
``dry_run`` counts what would be done, and does nothing. ``progress`` is called after each step, see ``Progress``.
"""

from __future__ import annotations

from .disconnecting import disconnect as disconnect
from .disconnecting import forget as forget
from .exporting import export as export
from .naming import Progress as Progress
from .naming import all_queues as all_queues
from .pausing import pause as pause
from .pausing import paused as paused
from .pausing import resend as resend
from .pausing import resume as resume
from .recovering import RecoverReport as RecoverReport
from .recovering import recover as recover
from .removing import purge as purge
from .removing import requeue as requeue
