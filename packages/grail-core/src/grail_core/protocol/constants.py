"""Section 1: the constants of protocol version 1. What may differ between networks is in `grail_core.protocol.network`."""

from __future__ import annotations

from typing import Final

PROTOCOL_VERSION: Final = 1
WINDOW_LENGTH: Final = 30  # blocks
ROLLOUTS_PER_PROBLEM: Final = 16
CHALLENGE_K: Final = 32  # challenged completion positions of a rollout
ALTERNATIVE_POSITIONS: Final = 256  # those at which named alternatives are measured, the challenged ones among them
PROOF_BATCH_SIZE: Final = 16  # rows of one proof forward pass
MAX_NEW_TOKENS_PROTOCOL_CAP: Final = 8192
MAX_PROMPT_TOKENS: Final = 4096
SUPERLINEAR_EXPONENT: Final = 4
UNIQUE_ROLLOUTS_CAP: Final = 5000  # per miner and window
CHECK_PROBABILITY_FLOOR: Final = (1, 10)  # a fraction: probabilities are exact
CHECKED_MINERS_EXPECTED: Final = 35
CHECKED_MINERS_LEAST: Final = 2
CHECK_ALL_BELOW: Final = 64  # rows: files up to this size are checked whole
MAX_ROLLOUTS_CHECKED: Final = 64
WHOLE_GROUPS_CHECKED: Final = 2
SINGLE_ROLLOUTS_CHECKED: Final = 32
NEWCOMERS_CHECKED: Final = 8  # expected checks a window among those whose audits do not support what they seal
LOOKBACK_AUDITS: Final = 5  # a failure is remembered for the windows in which so many checks would have been expected …
LOOKBACK_WINDOWS: Final = (14, 36)  # … but no fewer and no more windows than these
SCORE_WINDOWS: Final = 12  # windows of declared work that count
SCORE_MEMORY_WINDOWS: Final = 72  # windows whose audits count
AUDITS_OF_A_PRODUCT: Final = 4  # size of the products whose mean tells the share of valid work
SUPPORT_FACTOR: Final = 3  # work counts up to so many times what audits found valid
INCONCLUSIVE_FREE: Final = 1  # inconclusive drawn windows of a hotkey in the memory that count nothing …
INCONCLUSIVE_FREE_AUDITS: Final = 10  # … where audits found valid so many times what the window declares
UNIQUE_HISTORY_WINDOWS: Final = 12
NUMERICS_CLASS_WINDOWS: Final = 36  # a hotkey's class is fixed for so many windows
REWARD_REL_TOL: Final = 1e-6
REWARD_ABS_TOL: Final = 1e-9
MAX_FILE_BYTES: Final = 350 * 2**20
MAX_FILE_ROWS: Final = 6_000
MAX_ROW_BYTES: Final = 160 * 2**10  # of a file, for each of its rows
GAP_DEDUCTION_GROUPS: Final = 10  # groups that a missing one costs besides itself
SKETCH_DIMENSIONS: Final = 4
SKETCH_BYTES_PER_POSITION: Final = 8
SKETCH_SCALE: Final = 4096
SKETCH_LIMIT: Final = 32767
POSITION_ERROR_WINSOR: Final = 0.5
COARSE_ERROR_BOUND: Final = 0.30
COARSE_ERROR_POSITIONS: Final = 16
COARSE_MARGIN: Final = 1.0
COARSE_MARGIN_SHARE: Final = 0.30
COARSE_MARGIN_POSITIONS: Final = 64
COARSE_MARGIN_ROLLOUT_POSITIONS: Final = 16
COARSE_POOLED_POSITIONS: Final = 16  # of rollouts taken together that are too short to be held alone
COARSE_SHARE_POSITIONS: Final = 4  # a rollout with so many is counted by itself
COARSE_SHARE: Final = (1, 16)  # of the counted rollouts may be beyond a coarse bound …
COARSE_SHARE_LEAST: Final = 3  # … and so many must be, for the file to fail
COARSE_LOGPROB_BOUND: Final = 1.0  # nats, mean over all positions
MARGIN_CLIP: Final = 4.0
COMPETITOR_LOGIT_GAP: Final = 12.0
BORDER_LOGIT_SLACK: Final = 0.25  # in logits, so 0.25 / T of what is drawn from
BORDER_TOP_P_SLACK: Final = 0.01
FALSE_REJECT_RATE: Final = 1e-6  # per miner-window, split over the enforced statistics
