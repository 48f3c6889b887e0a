"""All that every store promises (netra_queue/stores/base.py). A test module makes a class of its own from it, and gives
it a ``store`` fixture."""

from __future__ import annotations

from .contract import MessageContract
from .contract_alerts import AlertContract
from .contract_connections import ConnectionContract
from .contract_controls import ControlsContract, PoliciesInForceContract
from .contract_letters import LetterContract
from .contract_lines import LineContract
from .contract_linger import LingerContract
from .contract_operators import OperatorContract
from .contract_overview import OverviewContract
from .contract_passing import PassingContract
from .contract_rates import RateContract
from .contract_receipts import ReceiptContract
from .contract_statistics import StatisticsContract
from .contract_threads import ThreadContract
from .contract_upkeep import UpkeepContract


class StoreContract(
    MessageContract,
    LineContract,
    ReceiptContract,
    LetterContract,
    LingerContract,
    ConnectionContract,
    ControlsContract,
    PassingContract,
    AlertContract,
    PoliciesInForceContract,
    OperatorContract,
    RateContract,
    StatisticsContract,
    OverviewContract,
    UpkeepContract,
    ThreadContract,
): ...
