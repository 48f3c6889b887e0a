"""All that every store promises (netra_queue/stores/base.py). A test module makes a class of its own from it, and gives
it a ``store`` fixture."""

from __future__ import annotations

from .contract import MessageContract
from .contract_letters import LetterContract
from .contract_lines import LineContract
from .contract_linger import LingerContract
from .contract_receipts import ReceiptContract
from .contract_threads import ThreadContract
from .contract_upkeep import UpkeepContract


class StoreContract(
    MessageContract,
    LineContract,
    ReceiptContract,
    LetterContract,
    LingerContract,
    UpkeepContract,
    ThreadContract,
): ...
